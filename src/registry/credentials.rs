//! Who we are to a registry.

use std::collections::HashMap;
use std::fmt;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::endpoint::DOCKER_HUB;
use crate::error::{Error, ErrorKind, Result};

/// Under this name Docker's tools keep what is for docker.io.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// What a registry knows somebody by. `Debug` does not show secrets.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Credentials {
    /// A user's name and password, or an access token in its place.
    Password {
        /// The name.
        user: String,
        /// The secret.
        password: String,
    },
    /// A token that a token server gave to be exchanged for others (OAuth 2's refresh token).
    IdentityToken(String),
}

impl Credentials {
    /// A user's name and password.
    pub fn password(user: impl Into<String>, password: impl Into<String>) -> Self {
        Self::Password { user: user.into(), password: password.into() }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => {
                f.debug_struct("Password").field("user", user).finish_non_exhaustive()
            }
            Self::IdentityToken(_) => f.debug_tuple("IdentityToken").finish_non_exhaustive(),
        }
    }
}

/// Where credentials come from.
#[derive(Clone, Debug, Default)]
pub(super) struct CredentialSource {
    pub(super) given: HashMap<String, Credentials>,
    /// Docker's configuration file and the helpers that it names.
    pub(super) docker: bool,
}

impl CredentialSource {
    /// The credentials for a registry, if there are any.
    ///
    /// A helper program may take its time: not for threads that serve connections.
    pub(super) fn find(&self, host: &str) -> Result<Option<Credentials>> {
        if let Some(given) = self.given.get(host) {
            return Ok(Some(given.clone()));
        }
        if !self.docker {
            return Ok(None);
        }
        let key = if host == DOCKER_HUB { DOCKER_HUB_KEY } else { host };
        match docker_credential::get_credential(key) {
            Ok(DockerCredential::UsernamePassword(user, password)) if user == "<token>" => {
                Ok(Some(Credentials::IdentityToken(password)))
            }
            Ok(DockerCredential::UsernamePassword(user, password)) => {
                Ok(Some(Credentials::password(user, password)))
            }
            Ok(DockerCredential::IdentityToken(token)) => {
                Ok(Some(Credentials::IdentityToken(token)))
            }
            Err(err) => explain(host, &err).map_or(Ok(None), Err),
        }
    }
}

/// `None` if there simply are no credentials.
fn explain(host: &str, err: &CredentialRetrievalError) -> Option<Error> {
    use CredentialRetrievalError as Why;
    let (kind, message, hint) = match err {
        Why::NoCredentialConfigured | Why::ConfigNotFound => return None,
        // What it prints may hold secrets.
        Why::HelperFailure { stdout, stderr, .. }
            if [stdout, stderr].iter().any(|out| out.contains("credentials not found")) =>
        {
            return None;
        }
        Why::HelperFailure { helper, .. } => (
            ErrorKind::Unavailable,
            format!("the credential helper docker-credential-{helper} has failed"),
            "it is named in Docker's config.json, under credHelpers or credsStore",
        ),
        Why::HelperCommunicationError | Why::MalformedHelperResponse => (
            ErrorKind::Unavailable,
            format!("a credential helper does not answer: {err}"),
            "Docker's config.json names it under credHelpers or credsStore; it must be in PATH",
        ),
        _ => (
            ErrorKind::Malformed,
            format!("Docker's config.json cannot be read: {err}"),
            "log in anew, or remove the file",
        ),
    };
    Some(
        Error::new(kind, message)
            .with_hint(hint)
            .context(format!("find the credentials for {host}")),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        for credentials in [
            Credentials::password("anna", "hunter2"),
            Credentials::IdentityToken("hunter2".to_owned()),
        ] {
            let source = CredentialSource {
                given: HashMap::from([("host".to_owned(), credentials)]),
                docker: false,
            };
            let shown = format!("{source:?} {source:#?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

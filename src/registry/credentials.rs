//! Who we are to a registry.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential};

use super::docker_config::{self, Object};
use super::endpoint::{DOCKER_HUB, registry_host};
use super::helper::Helper;
use crate::error::{Context, Error, ErrorKind, Result};

/// Under this name Docker's tools keep what is for docker.io.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
/// As this user helpers keep what is no password but an identity token.
const TOKEN_USER: &str = "<token>";

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

/// Credentials that a registry has taken.
#[derive(Clone, Debug)]
pub(super) struct Login {
    /// Beside an identity token, too, as Docker's tools keep it.
    pub(super) user: Option<String>,
    pub(super) credentials: Credentials,
}

/// Where [`Registry::login`](super::Registry::login) keeps credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kept {
    /// In the client's memory, and nowhere else.
    Memory,
    /// In Docker's `config.json`, which nobody but its owner may read. Whoever can read it knows them.
    File(PathBuf),
    /// By the credential helper `docker-credential-NAME`, of which this is the name.
    Helper(String),
}

/// Where credentials come from, and where they are kept.
#[derive(Debug)]
pub(super) struct CredentialSource {
    given: Mutex<HashMap<String, Credentials>>,
    /// Docker's configuration file and the helpers that it names.
    docker: bool,
    helper_timeout: Duration,
}

/// What Docker's tools call a registry.
fn key(host: &str) -> &str {
    if host == DOCKER_HUB { DOCKER_HUB_KEY } else { host }
}

impl CredentialSource {
    pub(super) fn new(
        given: HashMap<String, Credentials>,
        docker: bool,
        helper_timeout: Duration,
    ) -> Self {
        Self { given: Mutex::new(given), docker, helper_timeout }
    }

    fn given(&self) -> MutexGuard<'_, HashMap<String, Credentials>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn helper_timeout(&self) -> Duration {
        self.helper_timeout
    }

    /// The credentials for a registry, if there are any.
    ///
    /// A helper program may take its time: not for threads that serve connections.
    pub(super) fn find(&self, host: &str) -> Result<Option<Credentials>> {
        if let Some(given) = self.given().get(host) {
            return Ok(Some(given.clone()));
        }
        let Some(path) = docker_config::path().filter(|_| self.docker) else { return Ok(None) };
        let attempt = || format!("find the credentials for {host}");
        let Some(config) = docker_config::read(&path).context(attempt)? else { return Ok(None) };
        match docker_credential::get_credential_from_reader(&config[..], key(host)) {
            Ok(DockerCredential::UsernamePassword(user, password)) if user == TOKEN_USER => {
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

    /// Keeps credentials for a registry, instead of those that there were. Not for threads that serve connections.
    pub(super) fn keep(&self, host: &str, login: &Login) -> Result<Kept> {
        if !self.docker {
            self.given().insert(host.to_owned(), login.credentials.clone());
            return Ok(Kept::Memory);
        }
        let attempt = || format!("keep the credentials for {host}");
        let path = place().context(attempt)?;
        let kept = docker_config::change(&path, |config| {
            let helper = helper_for(config, key(host))?;
            let auths = config.object("auths")?;
            match &helper {
                Some(name) => {
                    self.helper(name).store(key(host), login.helper_user(), login.secret())?;
                    // The place of who is logged in by a helper.
                    auths.set(key(host), &[])?;
                }
                None => auths.set(key(host), &login.fields())?,
            }
            Ok((helper, true))
        });
        let kept = kept.context(attempt)?.map_or(Kept::File(path), Kept::Helper);
        // Else they would come first.
        self.given().remove(host);
        Ok(kept)
    }

    /// Forgets the credentials for a registry, wherever they are, and says whether there were any. Not for threads
    /// that serve connections.
    pub(super) fn erase(&self, host: &str) -> Result<bool> {
        let given = self.given().remove(host).is_some();
        let path = docker_config::path().filter(|path| self.docker && path.exists());
        let Some(path) = path else { return Ok(given) };
        let attempt = || format!("forget the credentials for {host}");
        let kept = docker_config::change(&path, |config| {
            let listed = config.object("auths")?.remove(|name| is_for(name, host));
            let Some(name) = helper_for(config, key(host))? else { return Ok((listed, listed)) };
            // It does not say whether it had something to erase.
            let held = self.find(host)?.is_some();
            if listed || held {
                self.helper(&name).erase(key(host))?;
            }
            Ok((listed || held, listed))
        });
        Ok(kept.context(attempt)? || given)
    }

    fn helper<'a>(&self, name: &'a str) -> Helper<'a> {
        Helper { name, timeout: self.helper_timeout }
    }
}

fn place() -> Result<PathBuf> {
    let nowhere = || Error::new(ErrorKind::NotFound, "there is no home for Docker's config.json");
    docker_config::path()
        .ok_or_else(|| nowhere().with_hint("$HOME or $DOCKER_CONFIG says where it is"))
}

/// The helper that keeps what is for a registry.
fn helper_for(config: &mut Object, key: &str) -> Result<Option<String>> {
    let own = match config.has("credHelpers") {
        true => config.object("credHelpers")?.text(key),
        false => None,
    };
    let not_empty = |name: &String| !name.is_empty();
    Ok(own.filter(not_empty).or_else(|| config.text("credsStore").filter(not_empty)))
}

/// Whether a name in Docker's configuration, which may have a scheme and a path, means this registry.
fn is_for(name: &str, host: &str) -> bool {
    registry_host(name).is_ok_and(|named| named == host)
}

impl Login {
    fn secret(&self) -> &str {
        match &self.credentials {
            Credentials::Password { password, .. } => password,
            Credentials::IdentityToken(token) => token,
        }
    }

    /// The name by which a helper keeps it.
    fn helper_user(&self) -> &str {
        match &self.credentials {
            Credentials::Password { user, .. } => user,
            Credentials::IdentityToken(_) => TOKEN_USER,
        }
    }

    /// As Docker's `config.json` has it.
    fn fields(&self) -> Vec<(&'static str, String)> {
        let encoded = |user: &str, password: &str| {
            let header = http_auth::basic::encode_credentials(user, password);
            header.trim_start_matches("Basic ").to_owned()
        };
        match &self.credentials {
            Credentials::Password { user, password } => vec![("auth", encoded(user, password))],
            Credentials::IdentityToken(token) => {
                let user = self.user.as_deref().map(|user| ("auth", encoded(user, "")));
                user.into_iter().chain([("identitytoken", token.clone())]).collect()
            }
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
            let login = Login { user: Some("anna".to_owned()), credentials: credentials.clone() };
            let given = HashMap::from([("host".to_owned(), credentials)]);
            let source = CredentialSource::new(given, false, Duration::ZERO);
            let shown = format!("{source:?} {source:#?} {login:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}

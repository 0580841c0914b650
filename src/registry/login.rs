//! Logging in for good, and out.

use std::sync::Arc;

use super::answer::web_page;
use super::auth::{self, Scope};
use super::challenge::Challenge;
use super::client::{Ask, Client};
use super::credentials::{Credentials, Kept, Login};
use super::endpoint::{Endpoint, registry_host};
use super::failure::Failure;
use crate::error::{Context, ErrorKind, Result};

/// Proves credentials to a registry and keeps them.
pub(super) async fn login(
    client: Arc<Client>,
    host: String,
    credentials: Credentials,
) -> Result<Kept> {
    let user = match &credentials {
        Credentials::Password { user, .. } => Some(user.clone()),
        Credentials::IdentityToken(_) => None,
    };
    let attempt = || match &user {
        Some(user) => format!("log in to {host} as {user}"),
        None => format!("log in to {host}"),
    };
    let host = registry_host(&host).context(attempt)?;
    let endpoint = Endpoint::registry(&host);
    let identity = prove(&client, &endpoint, &credentials).await.context(attempt)?;
    let credentials = identity.map_or(credentials, Credentials::IdentityToken);
    let (login, name) = (Login { user: user.clone(), credentials }, host.clone());
    let kept = client.with_credentials(move |source| source.keep(&name, &login)).await;
    client.auth().forget(&host);
    kept.context(attempt)
}

/// Logs in with the user's name and password that there are already.
pub(super) async fn login_again(client: Arc<Client>, host: String) -> Result<Option<Kept>> {
    let attempt = || format!("log in to {host} with the credentials that there are");
    let name = registry_host(&host).context(attempt)?;
    let found = client.with_credentials(move |source| source.find(&name)).await.context(attempt)?;
    match found {
        Some(credentials @ Credentials::Password { .. }) => {
            login(client, host, credentials).await.map(Some)
        }
        Some(Credentials::IdentityToken(_)) | None => Ok(None),
    }
}

/// Forgets credentials, and says whether there were any.
pub(super) async fn logout(client: Arc<Client>, host: String) -> Result<bool> {
    let attempt = || format!("log out of {host}");
    let host = registry_host(&host).context(attempt)?;
    let name = host.clone();
    let erased = client.with_credentials(move |source| source.erase(&name)).await;
    client.auth().forget(&host);
    erased.context(attempt)
}

/// Shows credentials to the registry, and returns the identity token that it may give for them.
async fn prove(
    client: &Client,
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<Option<String>> {
    let mut attempt = 0;
    loop {
        let failure = match prove_once(client, endpoint, credentials).await {
            Ok(identity) => return Ok(identity),
            Err(failure) => failure,
        };
        attempt += 1;
        client.pause(attempt, failure).await?;
    }
}

async fn prove_once(
    client: &Client,
    endpoint: &Endpoint,
    credentials: &Credentials,
) -> Result<Option<String>, Failure> {
    const LEFT_OVER: u64 = 64 << 10;
    let scope = Scope::none();
    let ask = Ask::get("/v2/", &scope);
    let mut answer = client.found(endpoint, &ask, None).await?;
    let mut identity = None;
    let mut shown = false;
    if answer.status() == 401 && !answer.elsewhere {
        let challenge = Challenge::of(answer.headers())?;
        // Drained, the connection serves the next request.
        let _ = answer.document(LEFT_OVER).await;
        let header;
        (header, identity) = auth::answer(client, endpoint, &challenge, credentials).await?;
        answer = client.found(endpoint, &ask, header.as_ref()).await?;
        shown = true;
    }
    if answer.is_page() {
        return Err(web_page().into());
    }
    if answer.status().is_success() {
        return Ok(identity);
    }
    let mut failure = answer.refusal().await;
    if shown && failure.error.kind() == ErrorKind::PermissionDenied {
        failure.error = failure.error.with_hint("user name or password are wrong");
    }
    Err(failure)
}

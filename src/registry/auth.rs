//! Logging in: passwords and tokens, and who gets to see them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;

use super::answer::Answer;
use super::challenge::Challenge;
use super::client::{Client, authority};
use super::credentials::Credentials;
use super::endpoint::{Endpoint, is_local, is_loopback, same_site};
use super::failure::Failure;
use crate::error::{Error, ErrorKind, Result};

/// How long a token is good whose server does not say: the specification's minimum.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// Longer tokens are none.
const MAX_TOKEN: u64 = 256 << 10;
const CLIENT_ID: &str = "coracle";

/// What a request needs to be allowed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Scope(String);

impl Scope {
    pub(super) fn pull(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull"))
    }

    pub(super) fn push(repository: &str) -> Self {
        Self(format!("repository:{repository}:pull,push"))
    }

    /// The list of repositories.
    pub(super) fn catalog() -> Self {
        Self("registry:catalog:*".to_owned())
    }

    /// Nothing in particular.
    pub(super) fn none() -> Self {
        Self::default()
    }

    /// Both.
    #[must_use]
    pub(super) fn and(self, other: &Self) -> Self {
        Self(format!("{} {}", self.0, other.0))
    }

    fn each(&self) -> impl Iterator<Item = &str> {
        self.0.split_ascii_whitespace()
    }
}

/// What is known of each host.
#[derive(Debug, Default)]
pub(super) struct Auth {
    hosts: Mutex<HashMap<String, Arc<tokio::sync::Mutex<Host>>>>,
}

#[derive(Default)]
struct Host {
    challenge: Option<Challenge>,
    credentials: Option<Option<Credentials>>,
    tokens: HashMap<Scope, Token>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("challenge", &self.challenge).finish_non_exhaustive()
    }
}

#[derive(Clone)]
struct Token {
    header: HeaderValue,
    good_until: Instant,
    /// To be exchanged for others, if one was wanted and the server gives any.
    identity: Option<String>,
}

impl Auth {
    fn host(&self, name: &str) -> Arc<tokio::sync::Mutex<Host>> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(name.to_owned()).or_default().clone()
    }

    /// Forgets what it knows of a host.
    pub(super) fn forget(&self, name: &str) {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The header that lets a request in, as far as is known; `None` for a host that has not asked for one.
    pub(super) async fn header(
        &self,
        client: &Client,
        endpoint: &Endpoint,
        scope: &Scope,
    ) -> Result<Option<HeaderValue>, Failure> {
        let host = self.host(&endpoint.name);
        // Whoever wants the same token waits for it.
        let mut host = host.lock().await;
        let Some(challenge) = host.challenge.clone() else { return Ok(None) };
        let credentials = match &host.credentials {
            Some(known) => known.clone(),
            None => {
                let found = client.credentials(&endpoint.name).await?;
                host.credentials = Some(found.clone());
                found
            }
        };
        match challenge {
            Challenge::Basic => basic(endpoint, credentials.as_ref()),
            Challenge::Bearer { realm, service } => {
                let known = host.tokens.get(scope);
                if let Some(token) = known.filter(|token| token.good_until > Instant::now()) {
                    return Ok(Some(token.header.clone()));
                }
                let ask = TokenRequest {
                    endpoint,
                    realm: &realm,
                    service: service.as_deref(),
                    scope,
                    credentials: credentials.as_ref(),
                    offline: false,
                };
                let token = ask.send(client).await?;
                let header = token.header.clone();
                host.tokens.insert(scope.clone(), token);
                Ok(Some(header))
            }
        }
    }

    /// Takes in that a host refused a request with this header. Returns whether another attempt can do better.
    pub(super) async fn refused(
        &self,
        endpoint: &Endpoint,
        scope: &Scope,
        headers: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<bool> {
        let challenge = Challenge::of(headers)?;
        let host = self.host(&endpoint.name);
        let mut host = host.lock().await;
        let changed = host.challenge.as_ref() != Some(&challenge);
        if changed {
            host.tokens.clear();
        }
        // Another request may have got a new one meanwhile.
        let stale = host.tokens.get(scope).is_none_or(|token| Some(&token.header) == used);
        if stale {
            host.tokens.remove(scope);
        }
        let bearer = matches!(challenge, Challenge::Bearer { .. });
        host.challenge = Some(challenge);
        Ok(changed || used.is_none() || bearer)
    }
}

/// Answers a challenge with credentials that are not kept yet. Returns the header that lets a request in, and the identity
/// token that the token server may have given for them.
pub(super) async fn answer(
    client: &Client,
    endpoint: &Endpoint,
    challenge: &Challenge,
    credentials: &Credentials,
) -> Result<(Option<HeaderValue>, Option<String>), Failure> {
    match challenge {
        Challenge::Basic => Ok((basic(endpoint, Some(credentials))?, None)),
        Challenge::Bearer { realm, service } => {
            let (service, scope) = (service.as_deref(), &Scope::none());
            let credentials = Some(credentials);
            let ask = TokenRequest { endpoint, realm, service, scope, credentials, offline: true };
            let token = ask.send(client).await?;
            Ok((Some(token.header), token.identity))
        }
    }
}

fn basic(
    endpoint: &Endpoint,
    credentials: Option<&Credentials>,
) -> Result<Option<HeaderValue>, Failure> {
    match credentials {
        Some(Credentials::Password { user, password }) => Ok(Some(basic_header(user, password)?)),
        Some(Credentials::IdentityToken(_)) => Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("the registry {} wants a password, and there is only a token", endpoint.name),
        )
        .into()),
        None => Ok(None),
    }
}

fn basic_header(user: &str, password: &str) -> Result<HeaderValue> {
    if user.contains(':') {
        return Err(Error::invalid(format!("the user's name {user:?} has a colon in it")));
    }
    let header = HeaderValue::try_from(http_auth::basic::encode_credentials(user, password));
    let mut header = header.map_err(|_| Error::invalid("the password cannot be sent"))?;
    header.set_sensitive(true);
    Ok(header)
}

/// Whether the user has named the token server himself.
fn is_trusted(client: &Client, realm: &Url) -> bool {
    let (server, authority) = (realm.host_str().unwrap_or_default(), authority(realm));
    client.settings().token_servers.iter().any(|name| *name == server || *name == authority)
}

/// Whether a token server may be asked, and be sent the credentials for a registry if there are any.
fn check_realm(client: &Client, endpoint: &Endpoint, realm: &Url, secret: bool) -> Result<()> {
    let (server, authority) = (realm.host_str().unwrap_or_default(), authority(realm));
    let own = endpoint.host();
    let refuse = |what: &str, why: &str| {
        let message = format!("the registry {} {what} {authority}, {why}", endpoint.name);
        Error::new(ErrorKind::SafetyViolation, message)
    };
    const SENDS: &str = "wants its credentials sent to";
    let allowed_plain = is_loopback(server) || client.settings().plain.contains(&authority);
    if secret && realm.scheme() == "http" && !allowed_plain {
        return Err(refuse(SENDS, "which is spoken to without TLS")
            .with_hint("Builder::plain_http allows plain HTTP by the token server's name"));
    }
    let trusted = is_trusted(client, realm);
    let trust = "if it is the registry's own, Builder::trust_token_server allows it by name";
    match () {
        () if trusted => Ok(()),
        () if is_local(server) && !is_local(&own) => {
            let why = "which is not for a registry to point at";
            Err(refuse("wants tokens fetched from", why).with_hint(trust))
        }
        () if secret && !same_site(&own, server) => {
            Err(refuse(SENDS, "which is of another site").with_hint(trust))
        }
        () => Ok(()),
    }
}

/// As token servers answer.
#[derive(Deserialize)]
struct Granted {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// What is asked of a token server: <https://distribution.github.io/distribution/spec/auth/token/>.
struct TokenRequest<'a> {
    endpoint: &'a Endpoint,
    realm: &'a Url,
    service: Option<&'a str>,
    scope: &'a Scope,
    credentials: Option<&'a Credentials>,
    /// Whether an identity token is wanted, too.
    offline: bool,
}

impl TokenRequest<'_> {
    async fn send(&self, client: &Client) -> Result<Token, Failure> {
        self.fetch(client).await.map_err(|failure| {
            failure.context(|| {
                let server = self.realm.host_str().unwrap_or_default();
                format!("get a token for the registry {} from {server}", self.endpoint.name)
            })
        })
    }

    async fn fetch(&self, client: &Client) -> Result<Token, Failure> {
        check_realm(client, self.endpoint, self.realm, self.credentials.is_some())?;
        let asked = Instant::now();
        let answer = self.ask(client).await?;
        if !answer.status().is_success() {
            let refused = matches!(answer.status().as_u16(), 400 | 401 | 403);
            let failure = answer.refusal().await;
            if !refused {
                return Err(failure);
            }
            let hint = match self.credentials {
                Some(_) => "user name or password are wrong, or the user may not do this",
                None => "log in (Registry::login, or `docker login`)",
            };
            let error = failure.error.with_kind(ErrorKind::PermissionDenied).with_hint(hint);
            return Err(error.into());
        }
        let granted: Granted = answer.json(MAX_TOKEN).await?;
        let token = granted.token.or(granted.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            Error::new(ErrorKind::Malformed, "the token server's answer has no token in it")
        })?;
        let header = HeaderValue::try_from(format!("Bearer {token}"));
        let mut header = header.map_err(|_| {
            Error::new(
                ErrorKind::Malformed,
                "the token has characters in it that a header cannot have",
            )
        })?;
        header.set_sensitive(true);
        let life = granted.expires_in.map_or(TOKEN_LIFE, Duration::from_secs);
        // A request on its way should not see it expire.
        let good_until = asked.checked_add(life - life / 10).unwrap_or(asked);
        let identity = granted.refresh_token.filter(|token| self.offline && !token.is_empty());
        Ok(Token { header, good_until, identity })
    }

    async fn ask(&self, client: &Client) -> Result<Answer, Failure> {
        let mut url = self.realm.clone();
        let from = match is_trusted(client, &url) {
            true => url.host_str().unwrap_or_default().to_owned(),
            false => self.endpoint.host(),
        };
        let mut query = Vec::new();
        query.extend(self.service.map(|service| ("service", service)));
        let mut headers = HeaderMap::new();
        if let Some(Credentials::IdentityToken(token)) = self.credentials {
            query.extend([("grant_type", "refresh_token"), ("client_id", CLIENT_ID)]);
            query.extend([("scope", self.scope.0.as_str()), ("refresh_token", token.as_str())]);
            // A form's encoding is a query's.
            let mut form = url.clone();
            form.query_pairs_mut().clear().extend_pairs(query);
            let body = form.query().unwrap_or_default().to_owned();
            let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
            headers.insert(CONTENT_TYPE, form_type);
            let body = Bytes::from(body).into();
            return client.exchange(&from, Method::POST, url, headers, Some(body)).await;
        }
        query.extend(self.scope.each().map(|scope| ("scope", scope)));
        if let Some(Credentials::Password { user, password }) = self.credentials {
            query.push(("account", user));
            if self.offline {
                query.extend([("offline_token", "true"), ("client_id", CLIENT_ID)]);
            }
            headers.insert(reqwest::header::AUTHORIZATION, basic_header(user, password)?);
        }
        url.query_pairs_mut().extend_pairs(query);
        client.exchange(&from, Method::GET, url, headers, None).await
    }
}

//! Requests: to the right address, with the right credentials, and again where that may help.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION};
use reqwest::{Body, Method, StatusCode, Url};

use super::answer::Answer;
use super::auth::{Auth, Scope};
use super::credentials::{CredentialSource, Credentials};
use super::endpoint::{Endpoint, Scheme, is_local, is_loopback};
use super::failure::{Failure, Remedy, explain, too_late};
use super::guard::Guard;
use super::tls::{Identity, Trust};
use crate::error::{Error, ErrorKind, Result};

const USER_AGENT: &str = concat!("coracle/", env!("CARGO_PKG_VERSION"));
const MAX_REDIRECTS: usize = 5;
/// The first pause before another attempt; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// What a [`Builder`](super::Builder) has been told.
#[derive(Debug)]
pub(super) struct Settings {
    pub(super) credentials: Arc<CredentialSource>,
    pub(super) trust: Trust,
    /// By host and port.
    pub(super) identities: HashMap<String, Identity>,
    pub(super) proxy: Proxy,
    /// The mirrors of registries, in the order in which they are asked.
    pub(super) mirrors: HashMap<String, Vec<String>>,
    /// Hosts, with their ports, that may be spoken to without TLS.
    pub(super) plain: HashSet<String>,
    /// Hosts that get credentials for registries of other sites.
    pub(super) token_servers: HashSet<String>,
    pub(super) connect_timeout: Duration,
    pub(super) read_timeout: Duration,
    pub(super) retries: u32,
    /// Longer than that nobody waits because a registry asks for it.
    pub(super) patience: Duration,
}

pub(super) enum Proxy {
    /// As HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY say.
    Environment,
    None,
    Given {
        address: String,
        except: String,
    },
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("Environment"),
            Self::None => f.write_str("None"),
            Self::Given { address, except } => {
                f.debug_tuple("Given").field(&without_password(address)).field(except).finish()
            }
        }
    }
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    /// In the API of the endpoint, or an address that it gave.
    pub(super) target: Target<'a>,
    pub(super) scope: &'a Scope,
    pub(super) headers: HeaderMap,
    pub(super) body: Content<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Target<'a> {
    Path(&'a str),
    Address(&'a Url),
}

/// The body of a request, as often as it is needed.
#[derive(Clone, Copy)]
pub(super) enum Content<'a> {
    None,
    Bytes(&'a Bytes),
    Made(&'a (dyn Fn() -> Result<Streamed> + Sync)),
}

/// A body that may take its time, as long as it goes on.
#[derive(Debug)]
pub(super) struct Streamed {
    pub(super) body: Body,
    pub(super) pulse: Pulse,
}

impl From<Bytes> for Streamed {
    fn from(bytes: Bytes) -> Self {
        Self { body: bytes.into(), pulse: Pulse::default() }
    }
}

/// Beats whenever something goes out.
#[derive(Clone, Debug, Default)]
pub(super) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    pub(super) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits for what `work` comes to, unless it takes longer than that without a beat.
    async fn watch<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        loop {
            let before = self.0.load(Ordering::Relaxed);
            match tokio::time::timeout(limit, work.as_mut()).await {
                Ok(done) => return Some(done),
                Err(_) if self.0.load(Ordering::Relaxed) != before => {}
                Err(_) => return None,
            }
        }
    }
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, path: &'a str, scope: &'a Scope) -> Self {
        let (target, headers) = (Target::Path(path), HeaderMap::new());
        Self { method, target, scope, headers, body: Content::None }
    }

    pub(super) fn get(path: &'a str, scope: &'a Scope) -> Self {
        Self::new(Method::GET, path, scope)
    }

    fn body(&self) -> Result<Option<Streamed>> {
        match self.body {
            Content::None => Ok(None),
            Content::Bytes(bytes) => Ok(Some(bytes.clone().into())),
            Content::Made(make) => make().map(Some),
        }
    }

    fn name(&self) -> String {
        let path = match self.target {
            Target::Path(path) => path,
            Target::Address(url) => url.path(),
        };
        format!("{} {path}", self.method)
    }
}

/// Who leads to a host, if not the user, and its scheme, name and port.
type Way = (Option<String>, String, String);

#[derive(Debug)]
pub(super) struct Client {
    settings: Settings,
    auth: Auth,
    /// Each with the connections to one host and port, for one who leads there.
    connected: Mutex<HashMap<Way, reqwest::Client>>,
    /// What hosts on this machine have turned out to speak.
    schemes: Mutex<HashMap<String, Scheme>>,
    /// Whoever changes a list that is a document of a registry's holds this: others would overwrite the change.
    pub(super) lists: tokio::sync::Mutex<()>,
}

impl Client {
    pub(super) fn new(settings: Settings) -> Self {
        let (connected, schemes) = (Mutex::default(), Mutex::default());
        let (auth, lists) = (Auth::default(), tokio::sync::Mutex::default());
        Self { settings, auth, connected, schemes, lists }
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.settings
    }

    pub(super) fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Where to pull from, the best first.
    pub(super) fn sources(&self, registry: &str) -> Vec<Endpoint> {
        let mirrors = self.settings.mirrors.get(registry).into_iter().flatten();
        let mirrors = mirrors.map(|name| Endpoint::mirror(name));
        mirrors.chain([Endpoint::registry(registry)]).collect()
    }

    pub(super) async fn credentials(&self, host: &str) -> Result<Option<Credentials>> {
        let wanted = host.to_owned();
        let found = self.with_credentials(move |source| source.find(&wanted));
        match tokio::time::timeout(self.settings.credentials.helper_timeout(), found).await {
            Ok(found) => found,
            Err(_) => Err(Error::new(
                ErrorKind::TimedOut,
                format!("the credential helper for {host} did not answer in time"),
            )
            .with_hint("it may wait for someone to unlock what it keeps")),
        }
    }

    /// Does something with credentials on another thread: it may run a program.
    pub(super) async fn with_credentials<T: Send + 'static>(
        &self,
        run: impl FnOnce(&CredentialSource) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let source = Arc::clone(&self.settings.credentials);
        let done = tokio::task::spawn_blocking(move || run(&source)).await;
        done.unwrap_or_else(|_| Err(Error::new(ErrorKind::InvalidState, "its thread has ended")))
    }

    /// Asks until there is an answer or no hope, and returns it if it says that all is well.
    pub(super) async fn send(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Answer> {
        let mut attempt = 0;
        loop {
            let failure = match self.once(endpoint, ask).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            attempt += 1;
            self.pause(attempt, failure).await?;
        }
    }

    /// Waits before another attempt, or says why there is none.
    pub(super) async fn pause(&self, attempt: u32, failure: Failure) -> Result<()> {
        let Remedy::Again(after) = failure.remedy else { return Err(failure.error) };
        if attempt > self.settings.retries {
            return Err(failure.error);
        }
        if let Some(after) = after.filter(|after| *after > self.settings.patience) {
            let hint = format!("it asks to be left alone for {} s", after.as_secs());
            return Err(failure.error.with_hint(hint));
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << (attempt - 1).min(10)).min(LONGEST_PAUSE);
        tokio::time::sleep(after.unwrap_or_else(|| spread(pause))).await;
        Ok(())
    }

    /// Asks once, apart from what it takes to log in.
    pub(super) async fn once(&self, endpoint: &Endpoint, ask: &Ask<'_>) -> Result<Answer, Failure> {
        let attempt = || format!("ask {} for {}", endpoint.name, ask.name());
        let answer = self.logged_in(endpoint, ask).await.map_err(|it| it.context(attempt))?;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            _ => Err(answer.refusal().await.context(attempt)),
        }
    }

    /// [`once`](Self::once), whatever the answer says.
    pub(super) async fn logged_in(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
    ) -> Result<Answer, Failure> {
        const LOGINS: usize = 2;
        let mut logins = 0;
        loop {
            let header = self.auth.header(self, endpoint, ask.scope).await?;
            let answer = self.found(endpoint, ask, header.as_ref()).await?;
            if answer.status() != StatusCode::UNAUTHORIZED || answer.elsewhere || logins == LOGINS {
                return Ok(answer);
            }
            logins += 1;
            let again = self.auth.refused(endpoint, ask.scope, answer.headers(), header.as_ref());
            if !again.await? {
                return Ok(answer);
            }
            // Drained, the connection serves the next request.
            let _ = answer.document(64 << 10).await;
        }
    }

    /// Asks without logging in, but with this header if there is one. Finds out whether the host speaks TLS, if that is
    /// not known.
    pub(super) async fn found(
        &self,
        endpoint: &Endpoint,
        ask: &Ask<'_>,
        header: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        if let Some(scheme) = self.scheme(endpoint) {
            return self.follow(endpoint, scheme, ask, header).await;
        }
        // On this machine, where it is no secret what is asked for. No header is known yet.
        let plain = self.follow(endpoint, Scheme::Http, ask, None).await;
        let scheme = match &plain {
            // As servers of TLS answer who does not speak it.
            Ok(answer) if answer.status() == StatusCode::BAD_REQUEST => None,
            Err(Failure { remedy: Remedy::Again(_), .. }) => None,
            Ok(_) => Some(Scheme::Http),
            Err(_) => return plain,
        };
        let (answer, scheme) = match scheme {
            Some(scheme) => (plain, scheme),
            None => match self.follow(endpoint, Scheme::Https, ask, header).await {
                Err(Failure { remedy: Remedy::WithoutTls | Remedy::Again(_), .. }) => return plain,
                answer => (answer, Scheme::Https),
            },
        };
        if answer.is_ok() {
            let mut schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
            schemes.insert(endpoint.name.clone(), scheme);
        }
        answer
    }

    fn scheme(&self, endpoint: &Endpoint) -> Option<Scheme> {
        if self.settings.plain.contains(&endpoint.name) {
            return Some(Scheme::Http);
        }
        if !endpoint.is_loopback() || self.settings.identities.contains_key(&endpoint.name) {
            return Some(Scheme::Https);
        }
        let schemes = self.schemes.lock().unwrap_or_else(PoisonError::into_inner);
        schemes.get(&endpoint.name).copied()
    }

    /// Asks, and follows where it leads. Credentials stay behind.
    async fn follow(
        &self,
        endpoint: &Endpoint,
        scheme: Scheme,
        ask: &Ask<'_>,
        header: Option<&HeaderValue>,
    ) -> Result<Answer, Failure> {
        let home = endpoint.url(scheme, "/")?;
        let mut url = match ask.target {
            Target::Path(path) => endpoint.url(scheme, path)?,
            Target::Address(url) => url.clone(),
        };
        for _ in 0..=MAX_REDIRECTS {
            self.check_leads(&home, &url)?;
            let at_home = url.origin() == home.origin();
            let mut headers = ask.headers.clone();
            if let Some(header) = header.filter(|_| at_home) {
                headers.insert(AUTHORIZATION, header.clone());
            }
            let from = home.host_str().unwrap_or_default();
            let sent = self.exchange(from, ask.method.clone(), url, headers, ask.body()?);
            let answer = sent.await?;
            let Some(next) = redirection(&answer)? else {
                return Ok(Answer { elsewhere: !at_home, ..answer });
            };
            url = next;
        }
        let message = format!("it redirects more than {MAX_REDIRECTS} times");
        Err(Error::new(ErrorKind::Malformed, message).into())
    }

    /// Refuses to go from TLS to none, and from elsewhere to where only this machine can go.
    pub(super) fn check_leads(&self, home: &Url, url: &Url) -> Result<()> {
        let host = url.host_str().unwrap_or_default();
        if is_local(host) && !home.host_str().is_some_and(is_local) {
            let message = format!("it leads to {host}, which is not for a registry to point at");
            return Err(Error::new(ErrorKind::SafetyViolation, message));
        }
        let plain = url.scheme() == "http"
            && (home.scheme() == "http" || self.settings.plain.contains(&authority(url)));
        if url.scheme() == "https" || plain {
            return Ok(());
        }
        let message = format!("it leads to {}://{host}, away from TLS", url.scheme());
        Err(Error::new(ErrorKind::SafetyViolation, message))
    }

    /// One request and its answer, whatever that is. `from` is the host that leads there; the same one if the user does.
    pub(super) async fn exchange(
        &self,
        from: &str,
        method: Method,
        url: Url,
        headers: HeaderMap,
        body: Option<Streamed>,
    ) -> Result<Answer, Failure> {
        let mut request = self.connection(from, &url)?.request(method, url).headers(headers);
        let mut pulse = Pulse::default();
        if let Some(streamed) = body {
            (request, pulse) = (request.body(streamed.body), streamed.pulse);
        }
        let patience = self.settings.read_timeout;
        match pulse.watch(patience, request.send()).await {
            Some(Ok(response)) => Ok(Answer { response, patience, elsewhere: false }),
            Some(Err(err)) => Err(explain(&err)),
            None => Err(too_late()),
        }
    }

    fn connection(&self, from: &str, url: &Url) -> Result<reqwest::Client> {
        let host = url.host_str().unwrap_or_default();
        let guard = (from != host).then(|| Guard::new(host, from));
        let key =
            (guard.is_some().then(|| from.to_owned()), url.scheme().to_owned(), authority(url));
        let mut connected = self.connected.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = connected.get(&key) {
            return Ok(client.clone());
        }
        let client = self.connect(url, guard)?;
        connected.insert(key, client.clone());
        Ok(client)
    }

    fn connect(&self, url: &Url, guard: Option<Guard>) -> Result<reqwest::Client> {
        let mut builder = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .http1_only()
            // The client's own limit of reading would count from when an upload begins.
            .connect_timeout(self.settings.connect_timeout);
        if let Some(guard) = guard {
            builder = builder.dns_resolver(Arc::new(guard));
        }
        // A proxy can be spoken to by TLS also on the way to a host that is not, but few are; it costs milliseconds.
        let identity = self.settings.identities.get(&authority(url));
        builder = match url.scheme() {
            "https" => builder.tls_backend_preconfigured(self.settings.trust.config(identity)?),
            _ => builder.tls_backend_preconfigured(Trust::nobody()?),
        };
        builder = match &self.settings.proxy {
            // It could not reach what is on this machine, unless it is there too.
            Proxy::Environment if !url.host_str().is_some_and(is_loopback) && !proxies_off() => {
                builder
            }
            Proxy::Environment | Proxy::None => builder.no_proxy(),
            Proxy::Given { address, except } => {
                let proxy = reqwest::Proxy::all(address).map_err(|err| {
                    Error::invalid(format!(
                        "the proxy {:?} is no address",
                        without_password(address)
                    ))
                    .with_hint(err.without_url().to_string())
                })?;
                builder.no_proxy().proxy(proxy.no_proxy(reqwest::NoProxy::from_string(except)))
            }
        };
        builder.build().map_err(|err| {
            let why = std::error::Error::source(&err).map(ToString::to_string);
            Error::new(ErrorKind::Os, format!("set up connections: {}", why.unwrap_or_default()))
        })
    }
}

/// Whether the environment excepts everything: the HTTP client takes its `*` for names only, not for addresses.
fn proxies_off() -> bool {
    let mut variables = ["NO_PROXY", "no_proxy"].into_iter().filter_map(std::env::var_os);
    variables.any(|except| except.to_str().is_some_and(|it| it.trim() == "*"))
}

/// Host and port, as users write them.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

fn without_password(address: &str) -> String {
    match address.parse::<Url>() {
        Ok(url) => format!("{}://{}", url.scheme(), authority(&url)),
        Err(_) => address.rsplit('@').next().unwrap_or_default().to_owned(),
    }
}

/// Where an answer leads. The method stays the same: nothing in the API is asked in another way there.
fn redirection(answer: &Answer) -> Result<Option<Url>> {
    let leads = matches!(answer.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let Some(location) = answer.header(LOCATION).filter(|_| leads) else { return Ok(None) };
    let next = answer.url().join(location);
    next.map(Some).map_err(|err| {
        Error::new(ErrorKind::Malformed, format!("it redirects to what is no address: {err}"))
    })
}

/// Half to all of a pause, so that many who failed together do not come back together.
fn spread(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 1000;
    pause / 2 + pause / 2 * u32::try_from(random).unwrap_or(0) / 1000
}

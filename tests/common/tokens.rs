//! A token server for a registry, in the test's own process.

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::certificates::Authority;
use super::http::{Request, Response};
use super::server::{Record, Scripted};
use super::{Missing, Sandbox, setup};

/// For so many seconds after its end docker-registry still takes a token.
const LEEWAY: i64 = 60;

/// Issues the JWTs that a [`Registry`](super::registry::Registry) with [`tokens`](super::registry::Builder::tokens) wants.
///
/// It takes Basic credentials or none with a GET, and a password or refresh token with a POST as OAuth 2 has it.
/// Whoever has an account gets what he asks for, and whoever has none may pull: [`policy`](Self::policy) changes that.
pub struct TokenServer {
    server: Scripted,
    issuer: Arc<Issuer>,
}

/// What was asked of a token server.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub service: Option<String>,
    pub scopes: Vec<String>,
    pub account: Option<String>,
    pub client_id: Option<String>,
    /// `password` or `refresh_token`, with a POST.
    pub grant_type: Option<String>,
    /// The header, as it came.
    pub authorization: Option<String>,
    /// Whose credentials those were, if they were right.
    pub user: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

/// Whether a user (or nobody) may do an action to a name, such as `pull` to `library/debian`.
type Policy = dyn Fn(Option<&str>, &str, &str) -> bool + Send;

struct Issuer {
    dir: Sandbox,
    authority: Authority,
    /// The certificate as a JWT holds it.
    x5c: String,
    record: Record<Asked>,
    rules: Mutex<Rules>,
}

struct Rules {
    users: HashMap<String, String>,
    refresh_tokens: HashMap<String, String>,
    policy: Box<Policy>,
    /// What the client is told, in seconds.
    expires_in: i64,
    /// What the token says, in seconds from now.
    expires: i64,
    refusal: Option<Response>,
    edit: Box<dyn Fn(&mut Value) + Send>,
    issued: u64,
}

impl TokenServer {
    pub fn start() -> Result<Self, Missing> {
        let dir = setup("tokens");
        let authority = Authority::rsa(&dir)?;
        let pem = fs::read_to_string(authority.pem()).expect("read the certificate");
        let x5c = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let rules = Rules {
            users: HashMap::new(),
            refresh_tokens: HashMap::new(),
            policy: Box::new(|user, action, _| user.is_some() || action == "pull"),
            expires_in: 300,
            expires: 300,
            refusal: None,
            edit: Box::new(|_| {}),
            issued: 0,
        };
        let (record, rules) = (Record::default(), Mutex::new(rules));
        let issuer = Arc::new(Issuer { dir, authority, x5c, record, rules });
        let theirs = Arc::clone(&issuer);
        let server = Scripted::start(move |request| theirs.answer(request));
        Ok(Self { server, issuer })
    }

    /// Makes an account.
    pub fn user(&self, name: &str, password: &str) {
        self.issuer.rules().users.insert(name.to_owned(), password.to_owned());
    }

    /// Who may do what: the user (or nobody), the action (`pull`, `push`, `delete`, `*`) and the name of what to.
    pub fn policy(&self, may: impl Fn(Option<&str>, &str, &str) -> bool + Send + 'static) {
        self.issuer.rules().policy = Box::new(may);
    }

    /// From now on tokens end after so many seconds, for the client and for the registry alike.
    ///
    /// The registry takes a token for a minute after the end that it claims; so the end claimed is one minute early.
    /// It counts whole seconds, and may take the token for one more.
    pub fn expire_after(&self, seconds: u32) {
        let mut rules = self.issuer.rules();
        rules.expires_in = seconds.into();
        rules.expires = rules.expires_in + 1 - LEEWAY;
    }

    /// From now on the registry takes no new token, though the client is told that they live for five minutes.
    pub fn issue_expired(&self) {
        let mut rules = self.issuer.rules();
        (rules.expires_in, rules.expires) = (300, -LEEWAY - 1);
    }

    /// From now on gives tokens for five minutes again.
    pub fn expire_late(&self) {
        let mut rules = self.issuer.rules();
        (rules.expires_in, rules.expires) = (300, 300);
    }

    /// From now on answers everything with this.
    pub fn refuse(&self, answer: Response) {
        self.issuer.rules().refusal = Some(answer);
    }

    /// From now on grants again what the policy grants.
    pub fn accept(&self) {
        self.issuer.rules().refusal = None;
    }

    /// Changes every answer that holds a token, before it goes out: fields may be left out or be wrong.
    pub fn edit(&self, edit: impl Fn(&mut Value) + Send + 'static) {
        self.issuer.rules().edit = Box::new(edit);
    }

    /// Everything it was asked so far.
    pub fn requests(&self) -> Vec<Asked> {
        self.issuer.record.all()
    }

    /// Where it listens: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.server.address()
    }

    /// The URL that a registry sends its clients to.
    pub fn realm(&self) -> String {
        format!("{}/token", self.server.url())
    }

    /// What the registry calls itself here.
    pub fn service(&self) -> &'static str {
        "coracle-test-registry"
    }

    pub fn issuer(&self) -> &'static str {
        "coracle-test-issuer"
    }

    /// The certificate whose key signs the tokens.
    pub fn certificate(&self) -> std::path::PathBuf {
        self.issuer.authority.pem()
    }

    /// A token as the server would issue it, for a request by hand.
    pub fn token(&self, user: Option<&str>, scopes: &[&str]) -> String {
        let mut rules = self.issuer.rules();
        let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        self.issuer.token(&mut rules, user, self.service(), &scopes)
    }
}

impl Issuer {
    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.rules.lock().expect("no policy panics")
    }

    fn answer(&self, request: &Request) -> Response {
        let form = request.method == "POST";
        let values = |name: &str| if form { request.form(name) } else { request.query(name) };
        let value = |name: &str| values(name).pop();
        let scopes = values("scope");
        let scopes = scopes.iter().flat_map(|scopes| scopes.split(' ')).map(str::to_owned);
        let mut asked = Asked {
            method: request.method.clone(),
            service: value("service"),
            scopes: scopes.filter(|scope| !scope.is_empty()).collect(),
            account: value("account"),
            client_id: value("client_id"),
            grant_type: value("grant_type"),
            authorization: request.header("Authorization").map(str::to_owned),
            user: None,
            status: 0,
        };
        let mut rules = self.rules();
        let user = match (form, asked.grant_type.as_deref(), &asked.authorization) {
            (true, Some("password"), _) => {
                rules.check(&value("username").unwrap_or_default(), value("password"))
            }
            (true, Some("refresh_token"), _) => {
                let token = value("refresh_token").unwrap_or_default();
                rules.refresh_tokens.get(&token).cloned().map(Some).ok_or(())
            }
            (true, ..) => Err(()),
            (false, _, Some(header)) => rules.check_basic(header),
            (false, _, None) => Ok(None),
        };
        let response = match (&rules.refusal, user) {
            (Some(refusal), _) => refusal.clone(),
            (None, Err(())) => wrong_credentials(),
            (None, Ok(user)) => {
                asked.user = user;
                let refresh = value("offline_token").is_some_and(|it| it == "true")
                    || value("access_type").is_some_and(|it| it == "offline");
                self.grant(&mut rules, &asked, refresh)
            }
        };
        asked.status = response.status;
        self.record.add(asked);
        response
    }

    fn grant(&self, rules: &mut Rules, asked: &Asked, refresh: bool) -> Response {
        let service = asked.service.as_deref().unwrap_or_default();
        let token = self.token(rules, asked.user.as_deref(), service, &asked.scopes);
        let mut answer = json!({ "access_token": token, "expires_in": rules.expires_in });
        if asked.method == "GET" {
            answer["token"] = json!(token);
        }
        if let (true, Some(user)) = (refresh || asked.method == "POST", &asked.user) {
            let token = format!("refresh-{}-{user}", rules.issued);
            rules.refresh_tokens.insert(token.clone(), user.clone());
            answer["refresh_token"] = json!(token);
        }
        (rules.edit)(&mut answer);
        Response::json(answer)
    }

    fn token(
        &self,
        rules: &mut Rules,
        user: Option<&str>,
        service: &str,
        scopes: &[String],
    ) -> String {
        let mut access = Vec::new();
        for scope in scopes {
            // A name may hold a host with a port.
            let Some((kind, rest)) = scope.split_once(':') else { continue };
            let Some((name, actions)) = rest.rsplit_once(':') else { continue };
            let may = |action: &&str| (rules.policy)(user, action, name);
            let actions: Vec<_> = actions.split(',').filter(may).collect();
            access.push(json!({ "type": kind, "name": name, "actions": actions }));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is past 1970");
        let now = i64::try_from(now.as_secs()).expect("it is not that late");
        rules.issued += 1;
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [self.x5c] });
        let claims = json!({
            "iss": "coracle-test-issuer",
            "sub": user.unwrap_or_default(),
            "aud": service,
            "exp": now + rules.expires,
            "nbf": now - 1,
            "iat": now,
            "jti": rules.issued.to_string(),
            "access": access,
        });
        let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        let signed = [header, claims].map(|part| encode(part.to_string().as_bytes())).join(".");
        let signature = self.authority.sign(signed.as_bytes());
        format!("{signed}.{}", encode(&signature))
    }
}

impl Rules {
    fn check(&self, user: &str, password: Option<String>) -> Result<Option<String>, ()> {
        let right = self.users.get(user).is_some_and(|right| Some(right) == password.as_ref());
        if right { Ok(Some(user.to_owned())) } else { Err(()) }
    }

    fn check_basic(&self, header: &str) -> Result<Option<String>, ()> {
        let encoded = header.strip_prefix("Basic ").ok_or(())?;
        let decoded = BASE64_STANDARD.decode(encoded).map_err(drop)?;
        let decoded = String::from_utf8(decoded).map_err(drop)?;
        let (user, password) = decoded.split_once(':').ok_or(())?;
        self.check(user, Some(password.to_owned()))
    }
}

fn wrong_credentials() -> Response {
    Response::json(json!({ "details": "incorrect username or password" }))
        .status(401)
        .header("WWW-Authenticate", r#"Basic realm="coracle-test-tokens""#)
}

/// The header that carries Basic credentials.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

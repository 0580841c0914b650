//! Logins: what is asked for, who gets to see passwords, and what of it shows.

use std::sync::Arc;

use serde_json::{Value, json};

use coracle::ErrorKind;
use coracle::image::Store;
use coracle::registry::{Credentials, Registry};

use crate::common::http::{Request, Response};
use crate::common::images::{MANIFEST, Skopeo, blob_file};
use crate::common::registry::Registry as Server;
use crate::common::relay::{Fault, Rule};
use crate::common::server::Scripted;
use crate::common::tokens::{TokenServer, basic};
use crate::common::{Missing, require, setup};
use crate::{Scene, client, says, scene, scene_with};

fn anna() -> Credentials {
    Credentials::password("anna", "hunter2")
}

/// A client that is logged in at the relay.
fn logged_in(scene: &Scene, credentials: Credentials) -> Registry {
    Registry::builder().credentials(scene.relay.address(), credentials).build().unwrap()
}

fn with_password(name: &str) -> Result<Scene, Missing> {
    let server = Server::builder().htpasswd("anna", "hunter2").start()?;
    let skopeo = Skopeo::new(&server)?;
    scene_with(name, server, &skopeo)
}

/// A registry that wants tokens, and who gives them out.
fn with_tokens(name: &str) -> Result<(Scene, TokenServer), Missing> {
    let tokens = TokenServer::start()?;
    tokens.user("anna", "hunter2");
    tokens.user("robot", "r");
    let server = Server::builder().tokens(&tokens).start()?;
    let skopeo = Skopeo::new(&server)?.user("anna", "hunter2");
    Ok((scene_with(name, server, &skopeo)?, tokens))
}

#[test]
fn a_password_is_shown_when_it_is_asked_for() {
    let scene = require!(with_password("auth-basic"));
    let registry = logged_in(&scene, anna());
    scene.check(&scene.pull(&registry).unwrap());
    let requests = scene.relay.requests();
    assert_eq!(requests[0].header("Authorization"), None, "sent before it was asked for");
    let shown =
        requests.iter().filter(|it| it.header("Authorization") == Some(&basic("anna", "hunter2")));
    assert_eq!(shown.count(), requests.len() - 1);
}

#[test]
fn without_the_right_password_nothing_is_told() {
    let scene = require!(with_password("auth-wrong"));
    let err = scene.fails(&client());
    says(
        &err,
        ErrorKind::PermissionDenied,
        &["401", "UNAUTHORIZED", "log in", &scene.relay.address()],
    );
    let err = scene.fails(&logged_in(&scene, Credentials::password("anna", "wrong-secret")));
    says(&err, ErrorKind::PermissionDenied, &["401", "log in"]);
    assert!(!format!("{err:?} {err:#?}").contains("wrong-secret"));
    assert!(scene.relay.requests().len() < 10, "it insists");
}

#[test]
fn a_token_is_fetched_once_for_all_layers_and_asks_for_no_more_than_is_needed() {
    let (scene, tokens) = require!(with_tokens("auth-token"));
    let registry = logged_in(&scene, anna());
    scene.check(&scene.pull(&registry).unwrap());
    let asked = tokens.requests();
    let own: Vec<_> = asked.iter().filter(|it| it.client_id.as_deref() != Some("skopeo")).collect();
    let last = own.last().unwrap();
    assert_eq!(last.scopes, ["repository:app:pull"]);
    assert_eq!(last.user.as_deref(), Some("anna"));
    let before = asked.len();
    scene.pull(&registry).unwrap();
    assert_eq!(tokens.requests().len(), before, "the token was forgotten");
    let passwords = scene.relay.requests();
    let password = basic("anna", "hunter2");
    assert!(passwords.iter().all(|it| it.header("Authorization") != Some(&password)));
}

#[test]
fn who_has_no_name_gets_a_token_too() {
    let (scene, tokens) = require!(with_tokens("auth-anonymous"));
    scene.check(&scene.pull(&client()).unwrap());
    assert_eq!(tokens.requests().last().unwrap().authorization, None);
}

#[test]
fn a_token_that_expires_on_the_way_is_fetched_anew() {
    let (scene, tokens) = require!(with_tokens("auth-expired"));
    let registry = logged_in(&scene, anna());
    let before = tokens.requests().len();
    // As a registry says that does not like the token any more.
    let realm = format!(
        "Bearer realm=\"{}\",service=\"{}\",error=\"invalid_token\"",
        tokens.realm(),
        tokens.service()
    );
    let refused = Response::new(401).header("WWW-Authenticate", realm);
    let refused = || Fault::Respond(refused.clone());
    scene.relay.rule(Rule::get("/v2/app/blobs/").times(1).fault(refused()));
    scene.check(&scene.pull(&registry).unwrap());
    assert_eq!(tokens.requests().len() - before, 2);
    // In the middle of a layer.
    let (scene, tokens) = require!(with_tokens("auth-expired-midway"));
    let registry = logged_in(&scene, anna());
    let before = tokens.requests().len();
    let blobs = || Rule::get("/v2/app/blobs/");
    let whole = blobs().when(|request| request.header("Range").is_none());
    scene.relay.rule(whole.fault(Fault::CutAfter(500_000)));
    let stale = Fault::edit_request(|request| request.headers.set("Authorization", "Bearer stale"));
    scene.relay.rule(blobs().times(1).fault(stale));
    scene.check(&scene.pull(&registry).unwrap());
    let requests = scene.relay.requests();
    let rest: Vec<_> = requests.iter().filter(|it| it.header("Range").is_some()).collect();
    let seen: Vec<_> = rest.iter().map(|it| (it.faulty, it.status)).collect();
    assert_eq!(seen, [(true, Some(401)), (false, Some(206))]);
    assert_eq!(tokens.requests().len() - before, 2);
    let blobs = requests.iter().filter(|it| it.path().contains("/blobs/"));
    let sent: u64 = blobs.filter(|it| it.status != Some(401)).map(|it| it.sent).sum();
    assert!(sent <= scene.bytes(), "{sent} bytes of {}", scene.bytes());
}

#[test]
fn tokens_that_never_do_end_in_an_error_soon() {
    let (scene, tokens) = require!(with_tokens("auth-never"));
    tokens.issue_expired();
    let err = scene.fails(&logged_in(&scene, anna()));
    says(&err, ErrorKind::PermissionDenied, &["401"]);
    assert!(scene.relay.requests().len() < 12);
}

#[test]
fn a_token_server_that_refuses_says_why_and_whom() {
    let (scene, tokens) = require!(with_tokens("auth-refused"));
    let err = scene.fails(&logged_in(&scene, Credentials::password("anna", "nonsense")));
    let words =
        ["get a token for the registry", &scene.relay.address(), "401", "user name or password"];
    says(&err, ErrorKind::PermissionDenied, &words);
    assert!(!format!("{err:?}").contains("nonsense"));

    tokens.policy(|user, _, _| user == Some("anna"));
    let err = scene.fails(&logged_in(&scene, Credentials::password("robot", "r")));
    says(&err, ErrorKind::PermissionDenied, &["app"]);

    tokens.refuse(Response::html("<html>hello</html>"));
    says(&scene.fails(&logged_in(&scene, anna())), ErrorKind::Malformed, &["web page", "token"]);
    tokens.refuse(Response::json("{}"));
    says(&scene.fails(&logged_in(&scene, anna())), ErrorKind::Malformed, &["no token in it"]);
    tokens.refuse(Response::json("{\"token\": \"a\\nb\"}"));
    says(&scene.fails(&logged_in(&scene, anna())), ErrorKind::Malformed, &["header cannot have"]);
    tokens.refuse(Response::new(200).endless("{\"token\": \""));
    says(&scene.fails(&logged_in(&scene, anna())), ErrorKind::Malformed, &["more than"]);
    tokens.accept();
    scene.check(&scene.pull(&logged_in(&scene, anna())).unwrap());
}

/// Sends clients that ask the relay for anything to a token server of this address.
fn lure(scene: &Scene, realm: &str) {
    let challenge = format!("Bearer realm=\"{realm}\",service=\"registry\"");
    let answer = Response::new(401).header("WWW-Authenticate", challenge);
    scene.relay.rule(Rule::any("/v2/").fault(Fault::Respond(answer)));
}

#[test]
fn passwords_are_not_sent_to_a_token_server_of_another_site() {
    let scene = require!(scene("auth-foreign"));
    let evil = Scripted::start(|_| Response::json("{\"token\": \"t\"}"));
    // The same machine by another name is another site.
    let realm = evil.url().replace("127.0.0.1", "localhost") + "/token";
    lure(&scene, &realm);
    let err = scene.fails(&logged_in(&scene, anna()));
    let words = ["localhost", "another site", "trust_token_server", &scene.relay.address()];
    says(&err, ErrorKind::SafetyViolation, &words);
    assert_eq!(evil.requests().len(), 0);
    // Who has nothing to lose may ask.
    says(&scene.fails(&client()), ErrorKind::PermissionDenied, &["401"]);
    assert!(evil.requests().iter().all(|it| it.header("Authorization").is_none()));
    assert!(!evil.requests().is_empty());
    // And who is told to trust it does.
    let trusting = Registry::builder()
        .credentials(scene.relay.address(), anna())
        .trust_token_server("localhost")
        .build()
        .unwrap();
    scene.fails(&trusting);
    let sent = evil.requests().pop().unwrap();
    assert_eq!(sent.header("Authorization"), Some(&*basic("anna", "hunter2")));
    // No name is trusted without TLS, unless it is on this machine.
    lure_plain(&trusting, &scene);
}

fn lure_plain(trusting: &Registry, scene: &Scene) {
    scene.relay.heal();
    lure(scene, "http://auth.example.com/token");
    let err = scene.fails(trusting);
    says(&err, ErrorKind::SafetyViolation, &["auth.example.com", "without TLS"]);
}

#[test]
fn credentials_do_not_follow_a_token_server_that_leads_elsewhere() {
    let scene = require!(scene("auth-token-redirect"));
    for credentials in [anna(), Credentials::IdentityToken("hunter2".to_owned())] {
        let elsewhere = Scripted::start(|_| Response::json("{\"token\": \"t\"}"));
        let to = format!("{}/token", elsewhere.url());
        let tokens = Scripted::start(move |_| Response::redirect(307, &to));
        scene.relay.heal();
        lure(&scene, &format!("{}/token", tokens.url()));
        scene.fails(&logged_in(&scene, credentials));
        let shown = |asked: &Request| {
            let body = String::from_utf8_lossy(&asked.body);
            asked.header("Authorization") == Some(&*basic("anna", "hunter2"))
                || body.contains("hunter2")
        };
        assert!(tokens.requests().iter().any(shown), "nothing was shown at all");
        for asked in elsewhere.requests() {
            assert_eq!(asked.header("Authorization"), None);
            assert!(
                !format!("{} {}", asked.target, String::from_utf8_lossy(&asked.body))
                    .contains("hunter2")
            );
        }
    }
}

#[test]
fn credentials_do_not_follow_a_redirect() {
    for tokens in [false, true] {
        let (scene, _tokens) = match tokens {
            false => (require!(with_password("auth-redirect")), None),
            true => {
                let (scene, tokens) = require!(with_tokens("auth-redirect-token"));
                (scene, Some(tokens))
            }
        };
        let blobs = scene.server.data_dir();
        let elsewhere = Arc::new(Scripted::start(move |request| {
            let hex = request.path().rsplit(':').next().unwrap().to_owned();
            let path = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
            Response::new(200).body(std::fs::read(blobs.join(path)).unwrap())
        }));
        let url = elsewhere.url();
        scene.relay.decide(move |request| {
            match request.path().contains("/blobs/") && request.header("Authorization").is_some() {
                true => vec![Fault::Respond(Response::redirect(
                    307,
                    format!("{url}{}", request.path()),
                ))],
                false => vec![],
            }
        });
        scene.check(&scene.pull(&logged_in(&scene, anna())).unwrap());
        let asked = elsewhere.requests();
        assert_eq!(asked.len(), 3);
        for request in asked {
            assert_eq!(request.header("Authorization"), None);
            assert_eq!(request.header("Referer"), None);
        }
    }
}

#[test]
fn a_registry_elsewhere_cannot_point_at_this_machine() {
    // As a proxy it answers for a registry elsewhere.
    let inner = Scripted::start(|_| Response::json("{\"token\": \"t\"}"));
    let url = inner.url();
    for to in [url.clone(), "http://169.254.169.254".to_owned(), "http://[::1]:1".to_owned()] {
        for login in [false, true] {
            let to = to.clone();
            let proxy = Scripted::start(move |_| match login {
                false => Response::redirect(307, format!("{to}/x")),
                true => Response::new(401)
                    .header("WWW-Authenticate", format!("Bearer realm=\"{to}/token\"")),
            });
            let sandbox = setup("auth-inner");
            let store = Store::open(sandbox.join("store")).unwrap();
            let name = "registry.example:5000/app:1";
            let registry = Registry::builder()
                .proxy_except(proxy.url(), "127.0.0.1,169.254.169.254,::1")
                .plain_http("registry.example:5000")
                .retries(0)
                .build()
                .unwrap();
            let err = registry.pull(name, &store).blocking().unwrap_err();
            says(&err, ErrorKind::SafetyViolation, &["registry.example:5000", "to point at"]);
            assert_eq!(inner.requests().len(), 0);
        }
    }
}

/// A name that the system knows this machine by, and that does not tell so.
fn own_name() -> Result<String, Missing> {
    let hosts = std::fs::read_to_string("/etc/hosts").unwrap_or_default();
    let names =
        hosts.lines().filter_map(|line| line.split('#').next()?.split_once(char::is_whitespace));
    let names = names.filter(|(address, _)| *address == "127.0.0.1");
    let mut names = names.flat_map(|(_, names)| names.split_whitespace());
    let name = names.find(|name| *name != "localhost" && !name.ends_with(".localhost"));
    name.map(str::to_owned)
        .ok_or_else(|| Missing::new("a name of this machine", "/etc/hosts has none"))
}

#[test]
fn a_registry_elsewhere_cannot_point_at_a_name_of_this_machine() {
    let own = require!(own_name());
    let inner = Scripted::start(|_| Response::json("{\"token\": \"t\"}"));
    let port = inner.url().rsplit(':').next().unwrap().to_owned();
    let to = format!("http://{own}:{port}");
    let pull = |from: &str, login: bool, trusted: &str| {
        let to = to.clone();
        let answer = move || match login {
            false => Response::redirect(307, format!("{to}/x")),
            true => Response::new(401)
                .header("WWW-Authenticate", format!("Bearer realm=\"{to}/token\"")),
        };
        let proxy = Scripted::start(move |_| answer());
        let sandbox = setup("auth-inner-name");
        let store = Store::open(sandbox.join("store")).unwrap();
        let registry = Registry::builder()
            .proxy_except(proxy.url(), &*own)
            .plain_http(from)
            .trust_token_server(trusted)
            .retries(0)
            .build()
            .unwrap();
        registry.pull(format!("{from}/app:1"), &store).blocking().unwrap_err()
    };
    for login in [false, true] {
        let err = pull("192.0.2.1:5000", login, "another.example");
        says(
            &err,
            ErrorKind::SafetyViolation,
            &["192.0.2.1 leads to", &own, "127.0.0.1", "to point at"],
        );
        assert_eq!(inner.requests().len(), 0);
    }
    // The user may name it himself.
    pull("192.0.2.1:5000", true, &own);
    assert_ne!(inner.requests().len(), 0);
}

#[test]
fn addresses_in_a_manifest_are_not_visited() {
    let scene = require!(with_password("auth-urls"));
    let evil = Scripted::start(|_| Response::new(200).body("x"));
    let path = blob_file(&scene.sandbox.join("layout"), &scene.digest);
    let mut manifest: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    for part in ["/layers/0", "/layers/1", "/config"] {
        manifest.pointer_mut(part).unwrap()["urls"] = json!([evil.url()]);
    }
    let kind = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
    manifest["layers"][1]["mediaType"] = json!(kind);
    let answer = Response::new(200).header("Content-Type", MANIFEST).body(manifest.to_string());
    scene.relay.rule(Rule::get("/v2/app/manifests/").fault(Fault::Respond(answer)));
    scene.pull(&logged_in(&scene, anna())).unwrap();
    assert_eq!(evil.requests().len(), 0);
}

#[test]
fn what_another_host_answers_is_not_repeated() {
    let scene = require!(scene("auth-ssrf"));
    let inner = Scripted::start(|_| Response::new(403).body("the secret of an inner service"));
    let url = inner.url();
    scene
        .relay
        .rule(Rule::get("/v2/app/blobs/").fault(Fault::Respond(Response::redirect(302, url))));
    let err = scene.fails(&client());
    says(&err, ErrorKind::PermissionDenied, &["403"]);
    assert!(!format!("{err:?}").contains("inner service"), "{err:?}");
}

#[test]
fn a_login_of_another_kind_is_named() {
    let scene = require!(scene("auth-unknown"));
    let answer = Response::new(401).header("WWW-Authenticate", "Negotiate");
    scene.relay.rule(Rule::any("/v2/").fault(Fault::Respond(answer)));
    says(&scene.fails(&client()), ErrorKind::Unsupported, &["Negotiate", &scene.relay.address()]);
}

//! Registries in every mode: one that lets everybody in would prove nothing.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::http::{Request, Response, ask};
use crate::common::images::{self, Layout, Packing, Skopeo, tar};
use crate::common::registry::Registry;
use crate::common::tokens::{TokenServer, basic};
use crate::common::{self, Sandbox, require};
use crate::{get, round_trip, small, text};

fn get_with(registry: &Registry, path: &str, authorization: &str) -> Response {
    let request = Request::new("GET", path).with_header("Authorization", authorization);
    ask(registry.address(), &request).unwrap()
}

#[test]
fn a_plain_registry_takes_and_gives() {
    let sandbox = common::setup("plain");
    let registry = require!(Registry::start());
    let skopeo = require!(Skopeo::new(&registry));
    assert_eq!(get(&registry, "/v2/").status, 200);
    round_trip(&skopeo, &sandbox, "team/app:1");
    assert!(text(&get(&registry, "/v2/_catalog")).contains("team/app"));
    let inspected = skopeo.inspect("team/app:1").unwrap();
    assert_eq!(inspected["Layers"].as_array().unwrap().len(), 2);
    assert_eq!(images::digest(&skopeo.raw("team/app:1").unwrap()), inspected["Digest"]);
    assert!(skopeo.try_pull("team/app:2", &sandbox.join("no"), "x").is_err());
    assert!(registry.log().contains("/v2/_catalog"));
}

#[test]
fn an_index_is_pushed_whole() {
    let sandbox = common::setup("index");
    let registry = require!(Registry::start());
    let skopeo = require!(Skopeo::new(&registry));
    let mut layout = Layout::new(sandbox.join("layout"));
    let layer = layout.layer(&tar(&[("a", b"b")])[..], Packing::Zstd);
    let manifests =
        ["amd64", "arm64"].map(|name| layout.manifest(name, std::slice::from_ref(&layer)));
    let digest = layout.index("both", &manifests);
    assert_eq!(skopeo.push(layout.path(), "both", "app:1"), digest);
    for manifest in manifests {
        let name = format!("app@{}", manifest["digest"].as_str().unwrap());
        assert!(skopeo.raw(&name).is_ok());
    }
}

#[test]
fn a_registry_keeps_its_address_and_content_over_a_restart_and_ends_on_drop() {
    let sandbox = common::setup("restart");
    let mut registry = require!(Registry::start());
    let (layout, digest) = small(&sandbox);
    require!(Skopeo::new(&registry)).push(layout.path(), "latest", "app:1");
    let (address, data) = (registry.address().to_owned(), registry.data_dir());
    assert!(registry.blob_file(&digest).exists());
    registry.stop();
    assert!(ask(&address, &Request::new("GET", "/v2/")).is_err());
    registry.restart();
    assert_eq!(registry.address(), address);
    assert_eq!(get(&registry, "/v2/app/manifests/1").status, 200);
    let process = Path::new("/proc").join(registry.pid().unwrap().to_string());
    assert!(process.exists());
    drop(registry);
    assert!(!process.exists());
    assert!(!data.exists());
}

/// Kills a run of this very test that has a registry.
#[test]
fn a_registry_ends_with_a_test_that_is_killed() {
    const MARK: &str = "CORACLE_TEST_TO_BE_KILLED";
    if std::env::var_os(MARK).is_some() {
        let registry = Registry::start().unwrap();
        println!("\npid {}", registry.pid().unwrap());
        loop {
            std::thread::park();
        }
    }
    require!(common::program("docker-registry"));
    let sandbox = common::setup("killed");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([
        "--exact",
        "registry::a_registry_ends_with_a_test_that_is_killed",
        "--nocapture",
    ]);
    command.env(MARK, "").env("TMPDIR", sandbox.path()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let pid = lines.find_map(|line| line.strip_prefix("pid ").map(str::to_owned)).unwrap();
    // It is gone even where nobody reaps the process.
    let executable = Path::new("/proc").join(pid).join("exe");
    assert!(executable.read_link().unwrap().ends_with("docker-registry"));
    child.kill().unwrap();
    child.wait().unwrap();
    let end = Instant::now() + Duration::from_secs(30);
    while executable.read_link().is_ok() {
        assert!(Instant::now() < end, "the registry goes on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn blobs_are_deleted_only_where_that_is_allowed() {
    let sandbox = common::setup("delete");
    let (layout, digest) = small(&sandbox);
    for (builder, status) in [(Registry::builder(), 405), (Registry::builder().delete(), 202)] {
        let registry = require!(builder.start());
        require!(Skopeo::new(&registry)).push(layout.path(), "latest", "app:1");
        let request = Request::new("DELETE", &format!("/v2/app/manifests/{digest}"));
        assert_eq!(ask(registry.address(), &request).unwrap().status, status);
        let gone = get(&registry, &format!("/v2/app/manifests/{digest}")).status == 404;
        assert_eq!(gone, status == 202);
    }
}

#[test]
fn tls_is_by_a_private_authority() {
    let sandbox = common::setup("tls");
    let registry = require!(Registry::builder().tls().start());
    let skopeo = require!(Skopeo::new(&registry));
    round_trip(&skopeo, &sandbox, "app:1");
    let other = require!(Registry::builder().tls().start());
    let err = skopeo.certificates(&other.trust_dir()).inspect("app:1").unwrap_err();
    assert!(err.contains("x509: certificate signed by unknown authority"), "{err}");
    // Nobody is answered in the clear.
    assert_eq!(get(&registry, "/v2/").status, 400);
}

#[test]
fn a_certificate_may_be_for_another_name() {
    let registry = require!(Registry::builder().tls_for("DNS:elsewhere.example").start());
    let err = require!(Skopeo::new(&registry)).inspect("app:1").unwrap_err();
    assert!(err.contains("x509: ") && err.contains("127.0.0.1"), "{err}");
}

#[test]
fn clients_need_a_certificate_where_it_is_demanded() {
    let sandbox = common::setup("clients");
    let registry = require!(Registry::builder().client_certificates().start());
    let skopeo = require!(Skopeo::new(&registry));
    let err = skopeo.inspect("app:1").unwrap_err();
    assert!(err.contains("bad certificate") || err.contains("certificate required"), "{err}");
    let skopeo = skopeo.certificates(&registry.client_dir());
    round_trip(&skopeo, &sandbox, "app:1");
}

#[test]
fn a_registry_listens_on_ipv6() {
    let registry = require!(Registry::builder().ipv6().in_memory().start());
    assert!(registry.address().starts_with("[::1]:"));
    // skopeo takes no such address.
    assert_eq!(text(&get(&registry, "/v2/_catalog")), "{\"repositories\":[]}\n");
}

#[test]
fn accounts_are_demanded() {
    let sandbox = common::setup("htpasswd");
    let builder = Registry::builder().htpasswd("alice", "sesame").htpasswd("bob", "pass:wörd ");
    let registry = require!(builder.start());
    let refused = get(&registry, "/v2/");
    assert_eq!(refused.status, 401);
    let challenge = refused.headers.get("WWW-Authenticate");
    assert_eq!(challenge, Some(r#"Basic realm="coracle-test-accounts""#));
    for (user, password, status) in [
        ("alice", "sesame", 200),
        ("bob", "pass:wörd ", 200),
        ("alice", "Sesame", 401),
        ("bob", "sesame", 401),
        ("eve", "sesame", 401),
    ] {
        let status_now = get_with(&registry, "/v2/", &basic(user, password)).status;
        assert_eq!(status_now, status, "{user}:{password}");
    }
    let skopeo = require!(Skopeo::new(&registry));
    round_trip(&skopeo, &sandbox, "app:1");
    assert!(skopeo.anonymous().inspect("app:1").is_err());
}

#[test]
fn tokens_are_demanded_and_what_they_grant_is_kept_to() {
    let sandbox = common::setup("tokens");
    let tokens = require!(TokenServer::start());
    tokens.user("alice", "sesame");
    let registry = require!(Registry::builder().tokens(&tokens).start());

    let refused = get(&registry, "/v2/app/manifests/1");
    assert_eq!(refused.status, 401);
    let challenge = format!(
        r#"Bearer realm="{}",service="{}",scope="repository:app:pull""#,
        tokens.realm(),
        tokens.service()
    );
    assert_eq!(refused.headers.get("WWW-Authenticate"), Some(challenge.as_str()));

    let skopeo = require!(Skopeo::new(&registry));
    let (layout, _) = small(&sandbox);
    let err = skopeo.try_push(layout.path(), "latest", "app:1").unwrap_err();
    assert!(err.contains("denied") || err.contains("authentication required"), "{err}");
    let err = require!(Skopeo::new(&registry)).user("alice", "wrong").inspect("app:1").unwrap_err();
    assert!(err.contains("invalid username/password"), "{err}");
    let asked = tokens.requests().pop().unwrap();
    assert_eq!((asked.user, asked.status), (None, 401));
    assert_eq!(asked.authorization, Some(basic("alice", "wrong")));

    let alice = require!(Skopeo::new(&registry)).user("alice", "sesame");
    round_trip(&alice, &sandbox, "app:1");
    let asked = tokens.requests();
    let pushed = asked.iter().rfind(|asked| asked.scopes == ["repository:app:pull,push"]);
    let pushed = pushed.unwrap_or_else(|| panic!("{asked:?}"));
    let by = (pushed.user.as_deref(), pushed.service.as_deref(), pushed.status);
    assert_eq!(by, (Some("alice"), Some(tokens.service()), 200));
    assert!(skopeo.inspect("app:1").is_ok(), "anybody may pull");

    tokens.policy(|user, action, name| user.is_some() && action == "pull" && name == "app");
    assert!(skopeo.inspect("app:1").is_err());
    assert!(alice.inspect("app:1").is_ok());
    assert!(alice.try_push(layout.path(), "latest", "app:2").is_err());

    tokens.refuse(Response::new(503).body("closed"));
    assert!(alice.inspect("app:1").is_err());
    assert_eq!(tokens.requests().pop().unwrap().status, 503);
    tokens.accept();
    assert!(alice.inspect("app:1").is_ok());
}

#[test]
fn a_token_is_taken_until_it_ends() {
    let tokens = require!(TokenServer::start());
    let registry = require!(Registry::builder().tokens(&tokens).start());
    let status = |token: &str| get_with(&registry, "/v2/app/tags/list", &format!("Bearer {token}"));
    let scopes = ["repository:app:pull"];

    let token = tokens.token(None, &scopes);
    assert_eq!(status(&token).status, 404, "it gets past the door");
    assert_eq!(status(&tokens.token(None, &["repository:other:pull"])).status, 401);
    let (signed, _) = token.rsplit_once('.').unwrap();
    assert_eq!(status(&format!("{signed}.AAAA")).status, 401);

    tokens.expire_after(2);
    let token = tokens.token(None, &scopes);
    assert_eq!(status(&token).status, 404);
    let refused = loop {
        let answer = status(&token);
        if answer.status != 404 {
            break answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(refused.status, 401);
    assert!(refused.headers.get("WWW-Authenticate").unwrap().contains(r#"error="invalid_token""#));

    tokens.issue_expired();
    assert_eq!(status(&tokens.token(None, &scopes)).status, 401);
    tokens.expire_late();
    assert_eq!(status(&tokens.token(None, &scopes)).status, 404);
}

#[test]
fn a_token_server_knows_oauth() {
    let tokens = require!(TokenServer::start());
    tokens.user("alice", "s&s ä");
    tokens.expire_after(90);
    let post = |form: &str| {
        let request = Request::new("POST", "/token").with_body(form);
        ask(&tokens.address(), &request).unwrap()
    };
    let json = |answer: &Response| -> serde_json::Value {
        assert_eq!(answer.status, 200);
        serde_json::from_slice(&answer.body).unwrap()
    };
    let common = "service=s&client_id=me&scope=repository%3Aa%3Apull+repository%3Ab%3Apush";
    let answer = post(&format!(
        "grant_type=password&access_type=offline&username=alice&password=s%26s+%C3%A4&{common}"
    ));
    let answer = json(&answer);
    assert_eq!(answer["expires_in"], 90);
    let refresh = answer["refresh_token"].as_str().unwrap();
    let answer = post(&format!("grant_type=refresh_token&refresh_token={refresh}&{common}"));
    assert!(json(&answer)["access_token"].is_string());
    let asked = tokens.requests().pop().unwrap();
    assert_eq!(asked.scopes, ["repository:a:pull", "repository:b:push"]);
    assert_eq!(asked.client_id.as_deref(), Some("me"));
    assert_eq!(asked.user.as_deref(), Some("alice"));
    assert_eq!(post("grant_type=refresh_token&refresh_token=none").status, 401);

    tokens.edit(|answer| {
        answer.as_object_mut().unwrap().remove("token");
    });
    let request = Request::new("GET", "/token?service=s&scope=repository:a:pull");
    let answer = json(&ask(&tokens.address(), &request).unwrap());
    assert!(answer["token"].is_null() && answer["access_token"].is_string());
}

/// Pulls what the upstream has through a mirror of it.
fn check_mirror(mirror: &Registry, digest: &str, sandbox: &Sandbox) {
    let skopeo = Skopeo::new(mirror).unwrap();
    assert!(!mirror.blob_file(digest).exists());
    assert_eq!(skopeo.inspect("app:1").unwrap()["Digest"], digest);
    skopeo.pull("app:1", &sandbox.join("mirrored"), "latest");
    assert!(mirror.blob_file(digest).exists());
    assert!(skopeo.inspect("app:2").is_err());
    let layout = sandbox.join("layout");
    assert!(skopeo.try_push(&layout, "latest", "app:2").is_err(), "it is read-only");
}

#[test]
fn a_mirror_has_what_its_upstream_has() {
    let sandbox = common::setup("mirror");
    let upstream = require!(Registry::start());
    let (layout, digest) = small(&sandbox);
    require!(Skopeo::new(&upstream)).push(layout.path(), "latest", "app:1");
    check_mirror(&require!(Registry::builder().mirror(&upstream).start()), &digest, &sandbox);
}

#[test]
fn a_mirror_may_have_an_account_with_its_upstream() {
    let sandbox = common::setup("account");
    let tokens = require!(TokenServer::start());
    tokens.user("alice", "sesame");
    tokens.policy(|user, _, _| user.is_some());
    let upstream = require!(Registry::builder().tls().tokens(&tokens).start());
    let (layout, digest) = small(&sandbox);
    let alice = require!(Skopeo::new(&upstream)).user("alice", "sesame");
    alice.push(layout.path(), "latest", "app:1");
    let mirror = Registry::builder().mirror_as(&upstream, "alice", "sesame");
    check_mirror(&require!(mirror.start()), &digest, &sandbox);
    let stranger = require!(Registry::builder().mirror(&upstream).start());
    assert!(require!(Skopeo::new(&stranger)).inspect("app:1").is_err());
}

#[test]
fn a_debian_image_fits_through() {
    let sandbox = common::setup_in_memory("debian");
    let registry = require!(Registry::builder().in_memory().start());
    let skopeo = require!(Skopeo::new(&registry));
    let mut layout = Layout::new(sandbox.join("layout"));
    let digest = require!(layout.debian("debian", Packing::Gzip));
    assert_eq!(skopeo.push(layout.path(), "debian", "debian:12"), digest);
    let inspected = skopeo.inspect("debian:12").unwrap();
    assert_eq!(inspected["Digest"], digest);
    let layer = inspected["Layers"][0].as_str().unwrap();
    let [theirs, ours] = [registry.blob_file(layer), layout.blob_file(layer)].map(fs::read);
    let ours = ours.unwrap();
    assert!(ours.len() > 50_000_000 && theirs.unwrap() == ours);
}

//! Tags and repositories, page by page.

use coracle::ErrorKind;
use coracle::registry::{Credentials, Registry};

use crate::common::http::{Request, Response};
use crate::common::images::Skopeo;
use crate::common::proxy::ForwardProxy;
use crate::common::registry::Registry as Server;
use crate::common::relay::{Fault, Relay, Rule};
use crate::common::require;
use crate::common::server::Scripted;
use crate::common::tokens::TokenServer;
use crate::{client, fill, filled, sorted};

#[test]
fn a_real_registry_lists_its_tags_and_repositories() {
    let server = require!(filled(&["app:1", "app:2", "app:latest", "team/app:x", "zoo:1"]));
    let client = client();
    let tags = client.tags(server.name("app")).blocking().unwrap();
    assert_eq!(sorted(tags), ["1", "2", "latest"]);
    let tags = client.tags(server.name("team/app:ignored")).blocking().unwrap();
    assert_eq!(tags, ["x"]);
    let all = ["app", "team/app", "zoo"];
    assert_eq!(client.repositories(server.address()).blocking().unwrap(), all);
    let err = client.tags(server.name("nobody")).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound);
    let told = format!("{err:#}");
    for word in [&server.name("nobody"), "list the tags", "NAME_UNKNOWN"] {
        assert!(told.contains(word), "{word}: {told}");
    }

    // It gives so many as it is asked for.
    let relay = Relay::start(server.address());
    let fewer = Fault::edit_request(|request| {
        request.target = request.target.replace("n=1000", "n=1");
    });
    relay.rule(Rule::get("/v2/_catalog").fault(fewer));
    assert_eq!(client.repositories(relay.address()).blocking().unwrap(), all);
    assert!(relay.requests().len() >= 3);
}

#[test]
fn awaited_they_are_the_same() {
    let server = require!(filled(&["app:1"]));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let tags = runtime.block_on(async { client().tags(server.name("app")).await });
    assert_eq!(tags.unwrap(), ["1"]);
}

#[test]
fn lists_want_a_login_where_pulls_do() {
    let tokens = require!(TokenServer::start());
    tokens.user("anna", "sesame");
    tokens.policy(|user, _, _| user.is_some());
    let server = require!(Server::builder().tokens(&tokens).start());
    let skopeo = require!(Skopeo::new(&server)).user("anna", "sesame");
    fill(&server, &skopeo, &["app:1"]);
    let anna = Credentials::password("anna", "sesame");
    let anna = Registry::builder().credentials(server.address(), anna).build().unwrap();
    assert_eq!(anna.tags(server.name("app")).blocking().unwrap(), ["1"]);
    assert_eq!(anna.repositories(server.address()).blocking().unwrap(), ["app"]);
    let scopes: Vec<_> = tokens.requests().into_iter().flat_map(|asked| asked.scopes).collect();
    assert!(scopes.contains(&"registry:catalog:*".to_owned()), "{scopes:?}");
    let err = client().tags(server.name("app")).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    let err = client().repositories(server.address()).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    assert!(err.hint().unwrap().contains("many registries"));
}

/// A server that gives pages of one tag each, numbered, with this link on each.
fn pages(link: impl Fn(u32) -> Option<String> + Send + Sync + 'static) -> Scripted {
    Scripted::start(move |request| {
        let page = request.query("page").first().map_or(1, |page| page.parse().unwrap());
        let response = Response::json(format!(r#"{{"name":"app","tags":["t{page}"]}}"#));
        match link(page) {
            Some(link) => response.header("Link", link),
            None => response,
        }
    })
}

fn authorized(request: &Request) -> bool {
    request.header("Authorization").is_some()
}

#[test]
fn pages_follow_each_other_to_the_end() {
    let server = pages(|page| {
        let next = format!("</v2/app/tags/list?page={}&n=1>; rel=\"next\"", page + 1);
        (page < 150).then_some(next)
    });
    let tags = client().tags(format!("{}/app", server.address())).blocking().unwrap();
    assert_eq!(tags.len(), 150);
    assert_eq!((tags[0].as_str(), tags[149].as_str()), ("t1", "t150"));
    let here = server.address();
    let absolute = pages(move |page| {
        // As a registry behind a proxy may write it.
        (page < 3)
            .then(|| format!("<https://127.0.0.1/v2/app/tags/list?page={}>; rel=next", page + 1))
    });
    let tags = client().tags(format!("{}/app", absolute.address())).blocking().unwrap();
    assert_eq!(tags, ["t1", "t2", "t3"]);
    assert_ne!(absolute.address(), here);
}

#[test]
fn a_list_that_leads_elsewhere_in_a_circle_or_nowhere_is_refused() {
    let elsewhere = Scripted::start(|_| Response::json(r#"{"tags":["x"]}"#));
    // Another host by its name.
    let away = elsewhere.url().replace("127.0.0.1", "localhost");
    let leading = pages(move |_| Some(format!("<{away}/v2/app/tags/list>; rel=next")));
    let circle = pages(|page| Some(format!("</v2/app/tags/list?page={}>; rel=next", page % 3)));
    let endless = Scripted::start(|request| {
        let page: u64 = request.query("page").first().map_or(1, |page| page.parse().unwrap());
        let link = format!("</v2/app/tags/list?page={}>; rel=next", page + 1);
        Response::json(r#"{"tags":[]}"#).header("Link", link)
    });
    for (server, kind) in [
        (&leading, ErrorKind::SafetyViolation),
        (&circle, ErrorKind::Malformed),
        (&endless, ErrorKind::Malformed),
    ] {
        let credentials = Credentials::password("anna", "sesame");
        let client = Registry::builder().credentials(server.address(), credentials);
        let client = client.build().unwrap();
        let err = client.tags(format!("{}/app", server.address())).blocking().unwrap_err();
        assert_eq!(err.kind(), kind, "{err:?}");
    }
    assert!(elsewhere.requests().is_empty());
    assert!(circle.requests().len() < 6 && endless.requests().len() < 20);
    assert!(!leading.requests().iter().any(authorized));
}

#[test]
fn what_is_no_list_of_names_is_refused() {
    for (answer, tags, repositories) in [
        (Response::json(r#"{"tags":null}"#), Ok(0), Ok(0)),
        (Response::json(r#"{"tags":["a"],"repositories":["a"]}"#), Err(()), Err(())),
        (Response::json(r#"{"tags":["\u001b[2J"]}"#), Err(()), Err(())),
        (Response::json(r#"{"tags":["a/b"]}"#), Err(()), Ok(1)),
        (Response::json(r#"{"tags":["../x"]}"#), Err(()), Err(())),
        (Response::json(r#"{"tags":["x@sha256:0"]}"#), Err(()), Err(())),
        (Response::json(r#"{"tags":["UPPER"]}"#), Ok(1), Err(())),
        (Response::json(r#"{"tags":5}"#), Err(()), Err(())),
        (Response::json("[]"), Err(()), Err(())),
        (Response::html("<p>Welcome"), Err(()), Err(())),
        (Response::json(r#"{"a":""#).endless("x"), Err(()), Err(())),
        (Response::json(r#"{"tags":["a"#).content_length(1 << 40), Err(()), Err(())),
    ] {
        let shown = format!("{answer:?}");
        let server = Scripted::start(move |_| answer.clone());
        let check = |listed: coracle::Result<Vec<String>>, expected: Result<usize, ()>| {
            if let Err(err) = &listed {
                assert_eq!(err.kind(), ErrorKind::Malformed, "{shown}: {err:?}");
                assert!(!format!("{err:?}").contains('\u{1b}'), "{err:?}");
            }
            assert_eq!(listed.map(|names| names.len()).map_err(drop), expected, "{shown}");
        };
        check(client().tags(format!("{}/app", server.address())).blocking(), tags);
        check(client().repositories(server.address()).blocking(), repositories);
    }
    for name in ["", "a b", "http://127.0.0.1/x"] {
        assert_eq!(client().tags(name).blocking().unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let err = client().repositories("a b").blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput);
}

#[test]
fn a_given_proxy_is_gone_through_with_its_password() {
    let server = require!(filled(&["app:1"]));
    let proxy = require!(ForwardProxy::with_account("anna", "hidden-4711"));
    let address = proxy.url_as("anna", "hidden-4711");
    // A proxy that is given is asked for what is on this machine, too.
    let through = Registry::builder().proxy(&address).plain_http(server.address());
    assert!(!format!("{through:?}").contains("hidden-4711"), "{through:?}");
    assert_eq!(through.build().unwrap().tags(server.name("app")).blocking().unwrap(), ["1"]);
    let asked = format!("GET http://{}/v2/app/tags/list", server.address());
    assert!(proxy.requests().iter().any(|line| line.starts_with(&asked)), "{:?}", proxy.requests());
    let before = proxy.requests().len();
    let except = Registry::builder().proxy_except(&address, "127.0.0.0/8");
    let except = except.plain_http(server.address()).build().unwrap();
    assert_eq!(except.tags(server.name("app")).blocking().unwrap(), ["1"]);
    assert_eq!(proxy.requests().len(), before);
    let wrong = proxy.url_as("otto", "hidden-4711");
    let wrong = Registry::builder().proxy(wrong).plain_http(server.address()).retries(0);
    let wrong = wrong.build().unwrap();
    let err = wrong.tags(server.name("app")).blocking().unwrap_err();
    let told = format!("{err:?} {wrong:?}");
    assert!(told.contains("40") && !told.contains("hidden-4711"), "{told}");
}

//! Blobs that another repository of the registry has are not sent, and what a user may not do is said.

use std::sync::{Arc, Mutex};

use coracle::ErrorKind;
use coracle::registry::{Credentials, Phase, Registry as Client};

use crate::common::registry::Registry;
use crate::common::relay::{Relay, Seen};
use crate::common::tokens::TokenServer;
use crate::common::{self, require};
use crate::fixture::{client, relayed, small, store};

/// The uploads that were begun, with their statuses, and how many bodies were sent.
fn uploads(requests: &[Seen]) -> (Vec<Option<u16>>, usize) {
    let begun = requests.iter().filter(|seen| seen.method() == "POST").map(|seen| seen.status);
    let sent = requests.iter().filter(|it| it.method() == "PUT" && it.path().contains("/blobs/"));
    (begun.collect(), sent.count())
}

#[test]
fn a_blob_of_another_repository_is_mounted() {
    let sandbox = common::setup("mount");
    let (_registry, relay) = require!(relayed());
    let (layout, digest) = small(&sandbox);
    let store = store(&layout);
    client().push(&store, "latest", relay.name("team/one:1")).blocking().unwrap();
    // By this name the store knows where else the blobs may be.
    store.tag("latest", &relay.name("team/one:1")).unwrap();
    let before = relay.requests().len();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&seen);
    let push = client().push(&store, "latest", relay.name("team/two:1"));
    let push = push.on_progress(move |it| theirs.lock().unwrap().push(it.phase));
    assert_eq!(push.blocking().unwrap().digest.to_string(), digest);
    let (begun, sent) = uploads(&relay.requests()[before..]);
    assert_eq!((begun, sent), (vec![Some(201); 3], 0));
    let mounted = seen.lock().unwrap().iter().filter(|it| **it == Phase::Mounted).count();
    assert_eq!(mounted, 3);
    assert!(client().manifest(relay.name("team/two:1")).blocking().is_ok());
}

#[test]
fn a_name_that_is_not_there_costs_no_second_upload() {
    let sandbox = common::setup("mount-guess");
    let (_registry, relay) = require!(relayed());
    let (layout, _) = small(&sandbox);
    let store = store(&layout);
    store.tag("latest", &relay.name("never/pushed:1")).unwrap();
    client().push(&store, "latest", relay.name("app:1")).blocking().unwrap();
    // The registry makes a place for what it cannot mount.
    assert_eq!(uploads(&relay.requests()), (vec![Some(202); 3], 3));
}

#[test]
fn of_several_names_the_one_that_is_there_is_found_and_no_place_is_left_behind() {
    let sandbox = common::setup("mount-several");
    let (_registry, relay) = require!(relayed());
    let (layout, _) = small(&sandbox);
    let store = store(&layout);
    client().push(&store, "latest", relay.name("team/one:1")).blocking().unwrap();
    // The last name is tried first.
    for name in ["team/one:1", "never/pushed:1"] {
        store.tag("latest", &relay.name(name)).unwrap();
    }
    let before = relay.requests().len();
    client().push(&store, "latest", relay.name("team/two:1")).at_once(1).blocking().unwrap();
    let requests = &relay.requests()[before..];
    assert_eq!(uploads(requests), ([Some(202), Some(201)].repeat(3), 0));
    let given_up = requests.iter().filter(|seen| seen.method() == "DELETE");
    let given_up: Vec<_> = given_up.map(|seen| seen.status).collect();
    assert_eq!(given_up, [Some(204); 3], "one for each place");
}

/// A registry that wants tokens, behind a relay.
fn locked() -> Result<(TokenServer, Registry, Relay), common::Missing> {
    let tokens = TokenServer::start()?;
    tokens.user("anna", "sesame");
    let registry = Registry::builder().tokens(&tokens).start()?;
    let relay = Relay::start(registry.address());
    Ok((tokens, registry, relay))
}

fn anna(relay: &Relay) -> Client {
    let credentials = Credentials::password("anna", "sesame");
    Client::builder().credentials(relay.address(), credentials).build().unwrap()
}

#[test]
fn tokens_are_asked_for_what_is_done_and_no_more() {
    let sandbox = common::setup("mount-tokens");
    let (tokens, _registry, relay) = require!(locked());
    let (layout, _) = small(&sandbox);
    let store = store(&layout);
    anna(&relay).push(&store, "latest", relay.name("team/one:1")).blocking().unwrap();
    let asked = tokens.requests();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].scopes, ["repository:team/one:pull,push"]);
    assert_eq!(asked[0].user.as_deref(), Some("anna"));

    store.tag("latest", &relay.name("team/one:1")).unwrap();
    let before = relay.requests().len();
    anna(&relay).push(&store, "latest", relay.name("team/two:1")).blocking().unwrap();
    let (begun, sent) = uploads(&relay.requests()[before..]);
    assert_eq!((begun, sent), (vec![Some(201); 3], 0));
    let asked = &tokens.requests()[1..];
    let scopes: Vec<_> = asked.iter().map(|asked| &asked.scopes[..]).collect();
    let two = "repository:team/two:pull,push".to_owned();
    assert_eq!(scopes, [&[two.clone()][..], &[two, "repository:team/one:pull".to_owned()][..]]);
}

#[test]
fn what_may_not_be_read_is_sent_instead() {
    let sandbox = common::setup("mount-closed");
    let (tokens, _registry, relay) = require!(locked());
    let (layout, _) = small(&sandbox);
    let store = store(&layout);
    anna(&relay).push(&store, "latest", relay.name("secret:1")).blocking().unwrap();
    store.tag("latest", &relay.name("secret:1")).unwrap();
    tokens.policy(|user, _, name| user.is_some() && name != "secret");
    let before = relay.requests().len();
    anna(&relay).push(&store, "latest", relay.name("app:1")).at_once(1).blocking().unwrap();
    let requests = relay.requests().split_off(before);
    let (_, sent) = uploads(&requests);
    assert_eq!(sent, 3);
    let tries = requests.iter().filter(|seen| seen.request.target.contains("from=secret"));
    let with_token = tries.filter(|seen| seen.header("Authorization").is_some());
    // It is tried for the first blob, with new tokens too, and then no more.
    assert!((1..=3).contains(&with_token.count()));
}

#[test]
fn whoever_may_only_read_is_told_so() {
    let sandbox = common::setup("push-forbidden");
    let (tokens, registry, relay) = require!(locked());
    tokens.policy(|_, action, _| action == "pull");
    let (layout, _) = small(&sandbox);
    let store = store(&layout);
    for client in [anna(&relay), client()] {
        let err = client.push(&store, "latest", relay.name("app:1")).blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
        let shown = format!("{err:?}");
        println!("{shown}\n");
        for part in [
            &*format!("push latest to {}/app:1", relay.address()),
            "UNAUTHORIZED",
            "hint: whoever is logged in may not push",
        ] {
            assert!(shown.contains(part), "{shown}");
        }
        assert!(!shown.contains("sesame"), "{shown}");
    }
    assert!(!registry.data_dir().join("docker/registry/v2/blobs").exists());
    let wrong = Credentials::password("anna", "wrong");
    let wrong = Client::builder().credentials(relay.address(), wrong).build().unwrap();
    let err = wrong.push(&store, "latest", relay.name("app:1")).blocking().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::PermissionDenied, "{err:?}");
    println!("{err:?}");
    assert!(format!("{err:#}").contains("incorrect username or password"), "{err:#}");
}

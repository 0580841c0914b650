//! Connections that break, servers that fail: what is there already is not fetched again.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coracle::ErrorKind;
use coracle::registry::{Phase, Progress, Registry};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;

use crate::common::http::Response;
use crate::common::relay::{Fault, Rule};
use crate::common::require;
use crate::{LAYER, Scene, client, says, scene};

const BLOBS: &str = "/v2/app/blobs/";

#[test]
fn a_connection_that_is_cut_every_so_often_goes_on_where_it_broke() {
    for fault in [Fault::CutAfter(300_000), Fault::ResetAfter(300_000)] {
        let scene = require!(scene("pull-cut"));
        scene.relay.rule(Rule::get(BLOBS).fault(fault.clone()));
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let pull = client().pull(scene.relay.name("app:1"), &scene.store);
        let pull = pull.on_progress(move |it: &Progress| tell.lock().unwrap().push(*it));
        scene.check(&pull.blocking().unwrap());
        check_progress(&told.lock().unwrap());
        let sent = scene.relay.bytes_down(|path| path.starts_with(BLOBS));
        // A reset drops what has not been read yet.
        let reset = matches!(fault, Fault::ResetAfter(_));
        assert!(reset || sent <= scene.bytes(), "{sent} bytes of {}", scene.bytes());
        let cuts = scene.relay.requests().iter().filter(|it| it.header("Range").is_some()).count();
        assert!(cuts >= LAYER / 300_000 - 1, "{cuts}");
    }
}

/// Whoever draws a bar sees the large layer move on, and its connection break.
fn check_progress(told: &[Progress]) {
    let large = told.iter().max_by_key(|it| it.size).unwrap().digest;
    let large: Vec<_> = told.iter().filter(|it| it.digest == large).collect();
    assert!(large.is_sorted_by_key(|it| it.bytes), "{large:?}");
    let count = |phase| {
        let inside = |it: &&&Progress| it.phase == phase && 0 < it.bytes && it.bytes < it.size;
        large.iter().filter(inside).count()
    };
    let (moved, broke) = (count(Phase::Transferring), count(Phase::Retrying));
    assert!(moved >= LAYER / 300_000 - 1 && broke >= LAYER / 300_000 - 1, "{large:?}");
}

#[test]
fn a_registry_that_cannot_begin_in_the_middle_is_read_from_the_beginning() {
    let scene = require!(scene("pull-no-range"));
    let fresh = Rule::get(BLOBS).when(|request| request.header("Range").is_none());
    scene.relay.rule(fresh.fault(Fault::CutAfter(1_000_000)));
    let forget = Fault::edit_request(|request| request.headers.remove("Range"));
    scene.relay.rule(Rule::get(BLOBS).fault(forget));
    scene.check(&scene.pull(&client()).unwrap());
}

#[test]
fn a_connection_on_which_nothing_comes_is_given_up() {
    let scene = require!(scene("pull-stall"));
    scene.relay.rule(Rule::get(BLOBS).times(2).fault(Fault::StallAfter(1000)));
    let registry = Registry::builder().read_timeout(Duration::from_millis(300)).build().unwrap();
    scene.check(&scene.pull(&registry).unwrap());

    let scene = require!(crate::scene("pull-stall-for-good"));
    scene.relay.rule(Rule::get(BLOBS).fault(Fault::StallAfter(0)));
    let registry =
        Registry::builder().read_timeout(Duration::from_millis(100)).retries(1).build().unwrap();
    says(&scene.fails(&registry), ErrorKind::TimedOut, &["in time", "read_timeout", BLOBS]);
}

#[test]
fn a_registry_in_trouble_is_asked_again_and_not_for_ever() {
    for status in [429, 500, 502, 503, 504] {
        let scene = require!(scene("pull-trouble"));
        let trouble = || Fault::Respond(Response::new(status).body("come back"));
        scene.relay.rule(Rule::any("/v2/app/manifests/").times(2).fault(trouble()));
        scene.relay.rule(Rule::get(BLOBS).times(2).fault(trouble()));
        scene.check(&scene.pull(&client()).unwrap());
    }
    let scene = require!(scene("pull-trouble-for-good"));
    let body = r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"you have pulled enough"}]}"#;
    scene.relay.rule(Rule::get(BLOBS).fault(Fault::Respond(Response::json(body).status(429))));
    let registry = Registry::builder().retries(2).build().unwrap();
    let err = scene.fails(&registry);
    let words =
        ["429", "TOOMANYREQUESTS: you have pulled enough", "logged in", &scene.relay.address()];
    says(&err, ErrorKind::ResourceExhausted, &words);
    let asked = scene.relay.requests();
    let asked: Vec<_> = asked.iter().filter(|it| it.path().starts_with(BLOBS)).collect();
    assert!(asked.len() >= 3, "{}", asked.len());
}

/// How long nobody asked between requests for manifests.
fn pauses(scene: &Scene) -> Vec<Duration> {
    let mut asked = scene.relay.requests();
    asked.retain(|it| it.path().contains("/manifests/"));
    asked.windows(2).map(|two| two[1].started - two[0].ended.unwrap()).collect()
}

#[test]
fn each_further_attempt_waits_longer() {
    let scene = require!(scene("pull-back-off"));
    let trouble = Fault::Respond(Response::new(503));
    scene.relay.rule(Rule::any("/v2/app/manifests/").times(3).fault(trouble));
    scene.check(&scene.pull(&client()).unwrap());
    let pauses = pauses(&scene);
    // Half of a pause is chance, so that not all come back at once.
    for (pause, least) in pauses.iter().zip([100, 200, 400]) {
        assert!(*pause >= Duration::from_millis(least), "{pauses:?}");
    }
    assert!(pauses.len() >= 3, "{pauses:?}");
}

#[test]
fn a_registry_that_says_how_long_it_wants_to_be_left_alone_is() {
    let scene = require!(scene("pull-retry-after"));
    let busy = Response::new(503).header("Retry-After", 1);
    scene.relay.rule(Rule::any("/v2/app/manifests/").times(1).fault(Fault::Respond(busy)));
    scene.check(&scene.pull(&client()).unwrap());
    assert!(pauses(&scene)[0] >= Duration::from_secs(1));

    let scene = require!(crate::scene("pull-retry-after-date"));
    // Without its fraction the date is two seconds away at least.
    let (start, date) = (Instant::now(), Timestamp::now() + Duration::from_secs(3));
    let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&date).unwrap();
    let busy = Response::new(503).header("Retry-After", date);
    scene.relay.rule(Rule::any("/v2/app/manifests/").times(1).fault(Fault::Respond(busy)));
    scene.check(&scene.pull(&client()).unwrap());
    assert!(start.elapsed() >= Duration::from_secs(2));

    let scene = require!(crate::scene("pull-retry-after-long"));
    let busy = Response::new(429).header("Retry-After", 3600);
    scene.relay.rule(Rule::any("/v2/app/manifests/").fault(Fault::Respond(busy)));
    let err = scene.fails(&client());
    says(&err, ErrorKind::ResourceExhausted, &["429", "left alone for 3600 s"]);
    let asked =
        scene.relay.requests().iter().filter(|it| it.path().contains("/manifests/")).count();
    assert_eq!(asked, 1);
}

#[test]
fn a_registry_that_restarts_meanwhile_is_found_again() {
    let mut scene = require!(scene("pull-restart"));
    scene.relay.rule(Rule::get(BLOBS).fault(Fault::CutAfter(500_000)));
    let registry = client();
    std::thread::scope(|scope| {
        let pull =
            scope.spawn(|| registry.pull(scene.relay.name("app:1"), &scene.store).blocking());
        scene.relay.wait_for(|seen| seen.iter().find(|it| it.faulty).map(drop));
        scene.server.restart();
        pull.join().unwrap().unwrap();
    });
    scene.check_clean();
}

#[test]
fn one_wrong_byte_is_found_whatever_it_is() {
    for at in [0, 5, 1000, LAYER as u64 / 2] {
        let scene = require!(scene("pull-corrupt"));
        scene.relay.rule(Rule::get(BLOBS).fault(Fault::CorruptAt(at)));
        let err = scene.fails(&client());
        says(&err, ErrorKind::Malformed, &["pull", "sha256:", "has the digest"]);
        scene.relay.heal();
        scene.check(&scene.pull(&client()).unwrap());
    }
    let scene = require!(crate::scene("pull-corrupt-manifest"));
    scene.relay.rule(Rule::get("/v2/app/manifests/").fault(Fault::CorruptAt(40)));
    says(&scene.fails(&client()), ErrorKind::Malformed, &["manifest", "digest"]);
}

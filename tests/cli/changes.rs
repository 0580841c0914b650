//! Names given and taken away, pruning, and what is damaged.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::common::setup;
use crate::fixture::{self, add, blob_file, sound, store};
use crate::{command, fails, family, lines, run};

#[test]
fn tags_are_given_silently_and_taken_away_one_by_one() {
    let dir = setup("cli-tag");
    let store = store(&dir);
    let image = add(&store, "app:1", &["one"]);
    let id = image.id().to_string();
    assert!(lines(&store, &["tag", &id[7..11], "team/app"]).is_empty());
    assert_eq!(lines(&store, &["rmi", "team/app"]), ["Untagged: team/app:latest"]);
    fails(&store, &["tag", "nobody", "b"], 1, &["no such image: nobody"]);
    fails(&store, &["tag", "app:1", "UPPER"], 1, &["\"UPPER\""]);
    fails(&store, &["tag", "app:1"], 1, &["TARGET_IMAGE"]);
    let gone = ["Untagged: app:1".to_owned(), format!("Deleted: {id}")];
    assert_eq!(lines(&store, &["image", "rm", "app:1"]), gone);
    assert!(fixture::names(&store, "blobs/sha256").is_empty());
    fails(&store, &["rmi", "app:1"], 1, &["no such image: app:1"]);
}

#[test]
fn removal_goes_on_after_a_refusal_and_fails() {
    let dir = setup("cli-rmi");
    let store = store(&dir);
    let two = add(&store, "two:a", &["two"]);
    store.tag("two:a", "two:b").unwrap();
    let used = add(&store, "used", &["used"]);
    store.pin("container-1", &used).unwrap();
    add(&store, "free", &["free"]);
    let short = two.id().short();
    let ran = fails(&store, &["rmi", &short, "used", "nobody", "free"], 1, &["two:a, two:b"]);
    assert!(ran.err.contains("in use by container-1") && ran.err.contains("Hint: "), "{ran:?}");
    assert!(ran.err.contains("no such image: nobody"), "{ran:?}");
    assert!(ran.out.starts_with("Untagged: free:latest\nDeleted: "), "{ran:?}");
    let forced = run(&store, &["rmi", "--force", &short, "used", "nobody"]);
    assert_eq!(forced.status, 0, "{forced:?}");
    assert_eq!(forced.out.matches("Untagged: ").count(), 3, "{forced:?}");
    assert!(forced.err.contains("no such image: nobody"), "{forced:?}");
    assert!(store.images().unwrap().is_empty());
    sound(&store);
}

#[test]
fn with_an_image_go_those_without_a_name_that_it_was_built_upon() {
    let dir = setup("cli-parents");
    let (store, [base, middle, app, _]) = family(&dir);
    store.tag("app", "again").unwrap();
    assert_eq!(lines(&store, &["rmi", "app"]), ["Untagged: app:latest"]);
    let gone = [
        "Untagged: again:latest".to_owned(),
        format!("Deleted: {}", app.id()),
        format!("Deleted: {}", middle.id()),
    ];
    assert_eq!(lines(&store, &["rmi", "again"]), gone);
    assert!(store.image(&base.id().to_string()).is_ok(), "it has a name");
    sound(&store);
}

#[test]
fn images_without_a_name_stay_if_wanted_or_needed() {
    let dir = setup("cli-parents-stay");
    let (store, [_, middle, ..]) = family(&dir);
    let large = "base".repeat(3000);
    add(&store, "sibling", &[&large, "middle", "side"]);
    assert_eq!(lines(&store, &["rmi", "app"]).len(), 2, "the sibling is built upon it");
    assert_eq!(lines(&store, &["rmi", "--no-prune", "sibling"]).len(), 2);
    assert!(store.image(&middle.id().to_string()).is_ok());
    sound(&store);
}

#[test]
fn pruning_asks_and_removes_what_was_told() {
    let dir = setup("cli-prune");
    let (store, [base, middle, app, _]) = family(&dir);
    store.pin("container-1", &app).unwrap();
    let answer = |arguments: &[&str], answer: &str| {
        let mut command = command(arguments);
        command.env("CORACLE_ROOT", store.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(answer.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stdout).unwrap()
    };
    for no in ["", "n\n", "yes please\n"] {
        let said = answer(&["prune"], no);
        assert!(said.starts_with("WARNING! This will remove all dangling images.\n"), "{said}");
        assert!(said.ends_with("Total reclaimed space: 0B\n"), "{said}");
    }
    assert_eq!(store.images().unwrap().len(), 4);
    let said = answer(&["image", "prune"], "y\n");
    let deleted = format!("Deleted Images:\ndeleted: {}\n\nTotal reclaimed space: ", middle.id());
    assert!(said.contains(&deleted), "{said}");
    let said = lines(&store, &["prune", "-f", "-a", "--filter", "until=24h"]);
    let names = ["untagged: base:1", "untagged: registry.example:5000/team/base:latest"];
    assert_eq!(said[1..3], names, "{said:#?}");
    assert_eq!(said[3], format!("deleted: {}", base.id()));
    let said = lines(&store, &["prune", "--force", "--all"]);
    assert_eq!(said[1], "untagged: other:latest", "{said:#?}");
    assert_eq!(store.images().unwrap(), [app], "what is in use stays");
    assert_eq!(lines(&store, &["prune", "-fa"]), ["Total reclaimed space: 0B"]);
    fails(&store, &["prune", "--filter", "colour=red"], 1, &["invalid filter 'colour'"]);
    sound(&store);
}

#[test]
fn damage_is_told_listed_around_and_repaired() {
    let dir = setup("cli-damage");
    let store = store(&dir);
    let bad = add(&store, "bad", &["bad"]);
    let worse = add(&store, "worse", &["worse"]);
    add(&store, "good", &["good"]);
    fs::write(blob_file(&store, bad.manifest().layers()[0].digest), "changed").unwrap();
    fs::write(blob_file(&store, worse.id()), "{}").unwrap();
    let ran = fails(&store, &["verify"], 1, &["damaged in 2 places", "Hint: `coracle repair`"]);
    assert_eq!(ran.out.matches("Damaged: ").count(), 2, "{ran:?}");
    assert!(ran.out.contains("(needed by bad:latest)"), "{ran:?}");
    let quiet = fails(&store, &["verify", "-q"], 1, &["damaged"]);
    assert_eq!(quiet.out.lines().count(), 2);
    let ran = fails(&store, &["images"], 1, &["worse:latest", "the list is not complete"]);
    assert!(ran.out.contains("good") && ran.out.contains("bad"), "{ran:?}");
    fails(&store, &["images", "--tree"], 1, &["worse:latest"]);
    fails(&store, &["system", "df"], 1, &["worse:latest"]);
    fails(&store, &["inspect", "worse"], 1, &["worse"]);
    let said = lines(&store, &["repair"]);
    assert!(said.contains(&"Deleted: bad:latest".to_owned()), "{said:#?}");
    assert!(said.last().unwrap().ends_with("damage in 2 places"), "{said:#?}");
    assert_eq!(lines(&store, &["images", "-q"]).len(), 1);
    assert!(lines(&store, &["verify", "--quiet"]).is_empty());
}

#[test]
fn a_damaged_image_can_be_removed() {
    let dir = setup("cli-remove-damaged");
    let store = store(&dir);
    let image = add(&store, "bad", &["bad"]);
    fs::write(blob_file(&store, image.id()), "{}").unwrap();
    let removed = lines(&store, &["rmi", "bad"]);
    assert_eq!(
        removed,
        ["Untagged: bad:latest".to_owned(), format!("Deleted: {}", image.digest())]
    );
    sound(&store);
}

//! Lists, filters, pruning, trees, histories and disk usage.

use coracle::image::{Filter, Image, Store, Tree};

use crate::common::setup;
use crate::fixture::{add, add_with, name, sound, store};

fn created(second: u32) -> String {
    format!(r#","created":"2024-01-01T00:00:{second:02}Z""#)
}

/// As `docker images` shows them.
fn shown(images: &[Image]) -> Vec<String> {
    let names = |image: &Image| {
        let names: Vec<_> = image.references().iter().map(|it| it.familiar()).collect();
        names.join("+")
    };
    images.iter().map(names).collect()
}

fn listed(store: &Store, filter: &Filter) -> Vec<String> {
    let listing = store.list(filter).unwrap();
    assert!(listing.damaged.is_empty(), "{:?}", listing.damaged);
    shown(&listing.images)
}

#[test]
fn filters_admit_what_they_say_and_the_newest_comes_first() {
    let dir = setup("image-filters");
    let store = store(&dir);
    let label = r#","config":{"Labels":{"stage":"test","empty":""}}"#;
    add_with(&store, "app:1", &["one"], &created(1));
    let middle = add_with(&store, "team/app:2", &["two"], &(created(2) + label));
    add_with(&store, "app:3", &["three"], &created(3));
    store.tag("app:3", "lib").unwrap();
    add(&store, "undated", &["four"]);
    add_with(&store, "gone", &["five"], &created(5));
    add_with(&store, "gone", &["six"], &created(4));
    let all = ["", "gone:latest", "app:3+lib:latest", "team/app:2", "app:1", "undated:latest"];
    let time = middle.created().unwrap();
    for (filter, expected) in [
        (Filter::new(), &all[..]),
        (Filter::new().dangling(true), &[""]),
        (Filter::new().dangling(false), &all[1..]),
        (Filter::new().reference("app"), &["app:3", "app:1"]),
        (Filter::new().reference("app:1").reference("*/*:2"), &["team/app:2", "app:1"]),
        (
            Filter::new().reference("*"),
            &["gone:latest", "app:3+lib:latest", "app:1", "undated:latest"],
        ),
        (Filter::new().reference("nothing"), &[]),
        (Filter::new().label("stage", None), &["team/app:2"]),
        (Filter::new().label("stage", Some("test")).label("empty", Some("")), &["team/app:2"]),
        (Filter::new().label("stage", Some("live")), &[]),
        (Filter::new().without_label("stage", Some("live")), &all[..]),
        (
            Filter::new()
                .without_label("stage", None)
                .without_label("nothing", None)
                .dangling(false),
            &["gone:latest", "app:3+lib:latest", "app:1", "undated:latest"],
        ),
        (Filter::new().created_before(time), &["app:1"]),
        (Filter::new().created_after(time), &["", "gone:latest", "app:3+lib:latest"]),
        (Filter::new().created_after(time).dangling(false), &["gone:latest", "app:3+lib:latest"]),
    ] {
        assert_eq!(listed(&store, &filter), expected, "{filter:?}");
    }
    assert_eq!(shown(&store.images().unwrap()), all);
}

#[test]
fn pruning_removes_what_the_filter_admits_and_nothing_uses() {
    let dir = setup("image-prune");
    let store = store(&dir);
    add(&store, "app", &["base", "old"]);
    let app = add(&store, "app", &["base", "new"]);
    store.tag("app", "lib").unwrap();
    add(&store, "spare", &["spare"]);
    let pruned = store.prune(&Filter::new().dangling(true)).unwrap();
    assert_eq!((pruned.images.len(), pruned.collected.blobs), (1, 3));
    assert!(pruned.images[0].references.is_empty());
    store.pin("box", &app).unwrap();
    // Only one of its names is meant.
    store.unpin("box").unwrap();
    assert!(store.prune(&Filter::new().reference("lib")).unwrap().images.is_empty());
    store.pin("box", &app).unwrap();
    let pruned = store.prune(&Filter::new()).unwrap();
    assert_eq!(pruned.images[0].references, [name("spare")]);
    assert_eq!((pruned.images.len(), pruned.collected.blobs), (1, 3));
    store.unpin("box").unwrap();
    assert_eq!(store.prune(&Filter::new()).unwrap().images[0].references.len(), 2);
    assert!(store.images().unwrap().is_empty());
    sound(&store);
}

#[test]
fn the_history_has_empty_steps_too_and_the_last_step_first() {
    let dir = setup("image-history");
    let store = store(&dir);
    let work = store.work().unwrap();
    let history = r#"[{"created":"2024-01-01T00:00:01Z","created_by":"add base","author":"me"},
        {"created_by":"CMD sh","empty_layer":true,"comment":"no\nfiles"},
        {"created_by":"add app"}]"#;
    let config = |layers: &[&str], history: &str| {
        let text = crate::fixture::config(layers, "");
        let (head, tail) = text.split_once("\"history\":").unwrap();
        format!("{head}\"history\":{history}{}", &tail[tail.find(']').unwrap() + 1..])
    };
    let set = |layers: &[&str], history: &str| {
        let manifest = crate::fixture::manifest(&work, layers, &config(layers, history));
        work.set_image(Some(&name("app")), &manifest).unwrap()
    };
    let image = set(&["base", "application"], history);
    let steps = image.history().unwrap();
    let brief: Vec<_> = steps.iter().map(|it| (it.created_by.as_str(), it.size)).collect();
    assert_eq!(brief, [("add app", 11), ("CMD sh", 0), ("add base", 4)]);
    assert_eq!(steps[0].layer, Some(image.diff_ids()[1]));
    assert_eq!((steps[1].layer, steps[2].author.as_str()), (None, "me"));
    assert_eq!(steps[2].to_string(), "2024-01-01T00:00:01Z             4  add base");
    assert!(steps[1].to_string().ends_with(r"CMD sh  (no\nfiles)"), "{}", steps[1]);
    // Nothing told, too little, too much.
    assert_eq!(set(&["base", "app"], "[]").history().unwrap().len(), 2);
    assert_eq!(set(&["base", "app", "more"], history).history().unwrap()[0].created_by, "");
    let err = set(&["base"], history).history().unwrap_err();
    assert!(format!("{err:#}").contains("more layers than the image"), "{err:#}");
}

#[test]
fn an_image_stands_below_the_one_whose_layers_it_begins_with() {
    let dir = setup("image-tree");
    let store = store(&dir);
    for (name, layers) in [
        ("base", &["base"][..]),
        ("web", &["base", "web"]),
        ("site", &["base", "web", "site"]),
        ("db", &["base", "lib", "db"]),
        ("other", &["other"]),
        ("late", &["base", "web", "late"]),
        ("empty", &[]),
    ] {
        add(&store, name, layers);
    }
    // The same layers, and a step more.
    let step = r#","config":{"Cmd":["x"]}"#;
    add_with(&store, "web:cmd", &["base", "web"], step);
    fn lines(trees: &[Tree], depth: usize) -> Vec<String> {
        let mut all = Vec::new();
        for tree in trees {
            let name = tree.image.references()[0].familiar();
            all.push(format!("{}{}", ">".repeat(depth), name.trim_end_matches(":latest")));
            all.extend(lines(&tree.children, depth + 1));
        }
        all
    }
    let trees = Tree::of(&store.images().unwrap());
    let mut found = lines(&trees, 0);
    found.sort();
    assert_eq!(found.len(), 8);
    let depth = |name: &str| {
        found
            .iter()
            .find(|it| it.trim_start_matches('>') == name)
            .unwrap()
            .rfind('>')
            .map_or(0, |at| at + 1)
    };
    for (name, expected) in [("base", 0), ("other", 0), ("empty", 0), ("db", 1)] {
        assert_eq!(depth(name), expected, "{name}: {found:?}");
    }
    // Which of the two is upon the other is their digests' to say; but one is, and both images of three layers upon that.
    assert_eq!(depth("web") + depth("web:cmd"), 3, "{found:?}");
    assert_eq!((depth("site"), depth("late")), (3, 3), "{found:?}");
    assert!(Tree::of(&[]).is_empty());
}

#[test]
fn usage_tells_what_is_shared_and_what_removing_would_free() {
    let dir = setup("image-usage");
    let store = store(&dir);
    let one = add(&store, "one", &["base", "one"]);
    let two = add(&store, "two", &["base", "second"]);
    let work = store.work().unwrap();
    work.ingest(&b"nobody's"[..], None).unwrap();
    drop(work);
    let usage = store.usage().unwrap();
    let of = |image: &Image| usage.images.iter().find(|it| it.image == *image).unwrap();
    assert_eq!((of(&one).size.blobs, of(&one).shared.blobs), (one.size(), 4));
    assert_eq!(of(&two).unique.blobs, two.size() - 4);
    assert_eq!(usage.garbage.blobs, 8);
    assert_eq!(usage.reclaimable.blobs, one.size() + two.size() - 4);
    assert_eq!(usage.total, usage.reclaimable + usage.garbage);
    assert_eq!(usage.total.layers, 0);
    let unique = of(&one).unique.blobs;
    store.pin("box", &two).unwrap();
    let usage = store.usage().unwrap();
    assert_eq!(usage.reclaimable.blobs, unique);
    assert_eq!(usage.images.iter().map(|it| it.pins.len()).sum::<usize>(), 1);
    // Which is what comes true.
    assert_eq!(store.prune(&Filter::new()).unwrap().collected.freed.blobs, unique + 8);
}

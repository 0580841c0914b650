//! What lists show, and how.

use coracle::image::Image;

use crate::common::setup;
use crate::fixture::{self, add_with, store};
use crate::{fails, family, lines, run};

/// The size of an image, in at most three digits.
fn size(image: &Image) -> String {
    match image.size() {
        bytes @ ..1000 => format!("{bytes}B"),
        bytes => format!("{:.1}kB", bytes as f64 / 1000.0),
    }
}

#[test]
fn images_are_listed_in_dockers_columns_the_newest_first() {
    let dir = setup("cli-images");
    let (store, [base, middle, app, other]) = family(&dir);
    let id = |image: &Image| image.id().short();
    let line = |name: &str, tag: &str, image: &Image, ago: &str| {
        format!("{name:<34}{tag:<10}{}   {ago:<21}{}", id(image), size(image))
    };
    let expected = [
        format!("{:<34}{:<10}{:<15}{:<21}SIZE", "REPOSITORY", "TAG", "IMAGE ID", "CREATED"),
        line("other", "latest", &other, "About a minute ago"),
        line("app", "latest", &app, "2 hours ago"),
        line("base", "1", &base, "2 days ago"),
        line("registry.example:5000/team/base", "latest", &base, "2 days ago"),
    ];
    assert_eq!(lines(&store, &["images"]), expected);
    assert_eq!(lines(&store, &["image", "ls"]), expected);
    let all = lines(&store, &["images", "--all"]);
    assert_eq!(all.len(), expected.len() + 1);
    let between = format!("{0:<34}{0:<10}{1}   3 hours ago", "<none>", id(&middle));
    assert!(all[3].starts_with(&between), "{all:#?}");
    assert!(lines(&store, &["images", "--digests"])[1].contains(&other.digest().to_string()));
}

#[test]
fn an_empty_store_has_headers_only() {
    let dir = setup("cli-empty");
    let store = store(&dir);
    assert_eq!(lines(&store, &["images"]), ["REPOSITORY   TAG       IMAGE ID   CREATED   SIZE"]);
    for quiet in [&["images", "-q"][..], &["images", "--tree"], &["images", "--format", "json"]] {
        assert!(lines(&store, quiet).is_empty(), "{quiet:?}");
    }
    assert_eq!(lines(&store, &["system", "df"]).len(), 4);
    assert!(lines(&store, &["verify"])[0].ends_with("0 images, 0 blobs, 0B read: all is well"));
}

#[test]
fn ids_are_short_or_whole_and_given_for_each_name() {
    let dir = setup("cli-ids");
    let (store, [base, _, app, other]) = family(&dir);
    let ids = [&other, &app, &base, &base];
    assert_eq!(lines(&store, &["images", "-q"]), ids.map(|it| it.id().short()));
    assert_eq!(lines(&store, &["images", "-q", "--no-trunc"]), ids.map(|it| it.id().to_string()));
}

#[test]
fn the_tree_shows_what_is_built_upon_what() {
    let dir = setup("cli-tree");
    let (store, [base, middle, app, other]) = family(&dir);
    let tree = lines(&store, &["images", "--tree"]);
    let line = |branch: &str, image: &Image, own: &str, names: &str| {
        let (id, whole) = (image.id().short(), size(image));
        format!("{branch}{id} Size: {own} (virtual {whole}) Tags: {names}")
    };
    let expected = [
        line("├─", &base, "12kB", "base:1, registry.example:5000/team/base:latest"),
        line("│ └─", &middle, "6B", "<none>"),
        line("│   └─", &app, "3B", "app:latest"),
        line("└─", &other, "5B", "other:latest"),
    ];
    assert_eq!(tree, expected);
    fails(&store, &["images", "--tree", "-q"], 125, &["--tree", "--quiet"]);
}

#[test]
fn filters_must_all_be_met() {
    let dir = setup("cli-filters");
    let (store, [_, middle, ..]) = family(&dir);
    let names = |filters: &[&str]| {
        let mut arguments = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
        filters.iter().for_each(|filter| arguments.extend(["--filter", filter]));
        lines(&store, &arguments).join(" ")
    };
    assert_eq!(names(&["dangling=true"]), "<none>:<none>");
    assert_eq!(names(&["reference=*pp", "reference=oth*"]), "other:latest app:latest");
    assert_eq!(names(&["label=tier=low", "reference=base:1"]), "base:1");
    assert_eq!(names(&["label=tier", "dangling=false", "before=app"]).split(' ').count(), 2);
    assert_eq!(names(&["label!=tier", "dangling=false"]), "other:latest app:latest");
    assert_eq!(names(&["label!=tier=low", "reference=base"]), "");
    assert_eq!(names(&["label!=tier=high", "reference=base"]), "base:1");
    assert_eq!(names(&[&format!("since={}", middle.id()), "before=other"]), "app:latest");
    assert_eq!(names(&["until=30m", "since=base:1", "dangling=false"]), "app:latest");
    assert_eq!(names(&["until=2001-01-31"]), "");
    assert_eq!(names(&["until=4102444800", "reference=app"]), "app:latest");
    assert_eq!(lines(&store, &["images", "-q", "registry.example:5000/*/base"]).len(), 1);
    assert_eq!(lines(&store, &["images", "-q", "nothing"]).len(), 0);
    fails(&store, &["images", "-f", "colour=red"], 1, &["invalid filter 'colour'"]);
    fails(&store, &["images", "-f", "dangling=maybe"], 1, &["invalid filter 'dangling=maybe'"]);
    fails(&store, &["images", "-f", "until=soon"], 1, &["until=soon"]);
    fails(&store, &["images", "-f", "before=nobody"], 1, &["no such image: nobody"]);
    let words = ["bad format of filter (expected name=value)"];
    fails(&store, &["images", "-f", "dangling"], 125, &words);
}

#[test]
fn formats_are_json_lines_tables_and_templates() {
    let dir = setup("cli-formats");
    let (store, [_, _, app, _]) = family(&dir);
    let format = |format: &str| lines(&store, &["images", "app", "--format", format]);
    let json: serde_json::Value = serde_json::from_str(&format("json")[0]).unwrap();
    assert_eq!(json["Repository"], "app");
    assert_eq!(json["ID"], app.id().short());
    assert_eq!(json["Digest"], app.digest().to_string());
    assert!(json["CreatedAt"].as_str().unwrap().ends_with(" +0000 UTC"), "{json}");
    assert_eq!(format("{{json .Tag}}|{{upper .Repository}}|{{.Tag | len}}"), [r#""latest"|APP|6"#]);
    assert_eq!(format(r"a\t{{.Tag}}\nb"), ["a\tlatest", "b"]);
    let table = format(r"table {{.ID}}\t{{.Tag}}");
    assert_eq!(table, ["IMAGE ID       TAG", &format!("{}   latest", app.id().short())]);
    assert!(format("table")[0].starts_with("REPOSITORY   TAG       IMAGE ID"));
    for (wrong, why) in [
        ("{{.ID", "unclosed action"),
        ("{{frob .ID}}", "frob"),
        ("{{.Nothing}}", "there is no field \"Nothing\", but CreatedAt"),
        ("{{}}", "missing value"),
        ("{{json}}", "wrong arguments"),
        ("{{range .}}x{{end}}", "range"),
    ] {
        fails(&store, &["images", "--format", wrong], 1, &["template", why]);
    }
}

#[test]
fn history_tells_each_step_and_the_images_on_the_way() {
    let dir = setup("cli-history");
    let (store, [base, middle, app, _]) = family(&dir);
    let ids = [&app, &middle, &base].map(|it| it.id().short());
    assert_eq!(lines(&store, &["history", "-q", "app"]), ids);
    let table = lines(&store, &["history", "app"]);
    assert_eq!(table[0], "IMAGE          CREATED   CREATED BY   SIZE      COMMENT");
    assert_eq!(table[1], format!("{}   N/A       step 3       3B", ids[0]));
    assert_eq!(table[3], format!("{}   N/A       step 1       12kB", ids[2]));
    let plain = lines(&store, &["history", "--human=false", "--format", "{{.Size}}", &ids[0]]);
    assert_eq!(plain, ["3", "6", "12000"]);
    fails(&store, &["history", "nobody"], 1, &["no such image: nobody"]);
    fails(&store, &["history"], 1, &["required", "IMAGE"]);

    let command = format!("RUN {}\tand \u{1b}[2J on", "x".repeat(60));
    let step = serde_json::json!({"created_by": command, "comment": "why", "created": "2026-01-31T12:00:00Z"});
    let layers = ["l"];
    let text =
        fixture::config(&layers, "").replace(r#"{"created_by":"step 1"}"#, &step.to_string());
    let work = store.work().unwrap();
    let manifest = fixture::manifest(&work, &layers, &text);
    work.set_image(Some(&fixture::name("long")), &manifest).unwrap();
    let short = lines(&store, &["history", "--format", "{{.CreatedBy}} {{.Comment}}", "long"]);
    assert_eq!(short, [format!("RUN {}… why", "x".repeat(40))]);
    let whole = lines(&store, &["history", "--no-trunc", "--format", "{{.CreatedBy}}", "long"]);
    assert_eq!(whole, [format!("RUN {} and \\u001b[2J on", "x".repeat(60))]);
    let time = lines(&store, &["history", "-H=false", "--format", "{{.CreatedAt}}", "long"]);
    assert_eq!(time, ["2026-01-31T12:00:00Z"]);
    let json = lines(&store, &["history", "--no-trunc", "--format", "json", "long"]);
    let json: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!(json["CreatedBy"], command.replace('\t', " "));
}

#[test]
fn inspect_prints_an_array_of_what_there_is_and_fails_for_the_rest() {
    let dir = setup("cli-inspect");
    let store = store(&dir);
    let config = r#","author":"A","config":{"Cmd":["sh","-c"],"Healthcheck":{"Test":["NONE"]}}"#;
    let image = add_with(&store, "app:1", &["one", "two"], config);
    store.tag("app:1", "team/app").unwrap();
    let ran = fails(&store, &["inspect", "app:1", "nobody", &image.id().short()], 1, &["nobody"]);
    assert!(ran.out.starts_with("[\n    {\n        \"Id\": \"sha256:"), "{}", ran.out);
    let found: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((found.as_array().unwrap().len(), &found[0]), (2, &found[1]));
    let found = &found[0];
    assert_eq!(found["Id"], image.id().to_string());
    assert_eq!(found["RepoTags"], serde_json::json!(["app:1", "team/app:latest"]));
    assert_eq!(found["RepoDigests"][1], format!("team/app@{}", image.digest()));
    assert_eq!(found["Config"]["Healthcheck"]["Test"][0], "NONE");
    assert_eq!(found["RootFS"]["Layers"][1], image.diff_ids()[1].0.to_string());
    assert_eq!((&found["Os"], &found["Author"]), (&"linux".into(), &"A".into()));
    assert_eq!(run(&store, &["inspect", "nobody"]).out, "[]\n");
    let picked = |format: &str| lines(&store, &["inspect", "-f", format, "app:1"]);
    assert_eq!(picked("{{.Config.Cmd}} {{json .Config.Cmd}}"), [r#"[sh -c] ["sh","-c"]"#]);
    assert_eq!(
        picked(r#"{{index .RepoTags 1}} {{join .Config.Cmd "+"}}"#),
        ["team/app:latest sh+-c"]
    );
    assert!(picked("json")[0].starts_with('{'));
    fails(&store, &["inspect", "-f", "{{", "app:1"], 64, &["template parsing error"]);
    fails(&store, &["inspect", "-f", "{{.Config.Nothing}}", "app:1"], 1, &["Nothing"]);
    fails(&store, &["inspect", "--platform", "linux/s390x", "app:1"], 1, &["linux/s390x"]);
    fails(&store, &["inspect", "--platform", "", "app:1"], 125, &["--platform"]);
}

#[test]
fn space_is_told_by_kind_and_by_image() {
    let dir = setup("cli-df");
    let (store, [base, middle, app, other]) = family(&dir);
    store.pin("container-1", &app).unwrap();
    store.work().unwrap().ingest(&[b'x'; 2500][..], None).unwrap();
    let table = lines(&store, &["system", "df"]);
    assert_eq!(table[0], "TYPE              TOTAL     ACTIVE    SIZE      RECLAIMABLE");
    assert!(table[1].starts_with("Images            4         1         1"), "{table:#?}");
    assert_eq!(table[2], "Unpacked layers   -         -         0B        0B");
    assert!(
        table[3].starts_with("Garbage           -         -         2.5kB     2.5kB (100%)"),
        "{table:#?}"
    );
    let json = lines(&store, &["system", "df", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!((&json["Type"], &json["TotalCount"]), (&"Images".into(), &"4".into()));
    let details = lines(&store, &["system", "df", "-v"]);
    assert_eq!(details[..2], ["Images space usage:", ""]);
    assert!(
        details[2].ends_with("SIZE      UNPACKED   SHARED SIZE   UNIQUE SIZE   CONTAINERS"),
        "{}",
        details[2]
    );
    assert_eq!(details.len(), 3 + 5, "{details:#?}");
    let of = |image: &Image| {
        details.iter().find(|line| line.contains(&image.id().short())).unwrap().clone()
    };
    assert!(of(&app).contains("12kB") && of(&app).ends_with('1'), "{}", of(&app));
    assert!(of(&other).contains("0B") && of(&other).ends_with('0'), "{}", of(&other));
    assert!(of(&middle).starts_with("<none>") && of(&base).contains("2 days ago"));
}

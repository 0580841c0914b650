//! The demo command line, `examples/coracle`: what it prints, where, and how it ends.

#![allow(clippy::unwrap_used, reason = "the helpers are test code too")]

mod common;
#[path = "image_store/fixture.rs"]
#[allow(dead_code, reason = "each suite uses another part")]
mod fixture;

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use coracle::image::{Image, Store};

use common::{Sandbox, require, setup};
use fixture::{add, add_with, blob_file, sound, store};

/// The example, which cargo and tests/run put beside the tests.
fn program() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let program = tests.parent().unwrap().with_file_name("examples").join("coracle");
    assert!(program.exists(), "first `cargo build --example coracle`");
    program
}

/// What a run printed, and its exit status.
#[derive(Debug)]
struct Ran {
    out: String,
    err: String,
    status: i32,
}

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).stdin(Stdio::null()).env_remove("CORACLE_ROOT").env("TZ", "UTC");
    command
}

fn finish(command: &mut Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let status = output.status.code().unwrap();
    Ran { out: text(output.stdout), err: text(output.stderr), status }
}

/// Runs it on the store.
fn run(store: &Store, arguments: &[&str]) -> Ran {
    finish(command(arguments).env("CORACLE_ROOT", store.path()))
}

/// Runs what must succeed without a complaint, and gives the lines that it printed.
fn lines(store: &Store, arguments: &[&str]) -> Vec<String> {
    let ran = run(store, arguments);
    assert!(ran.status == 0 && ran.err.is_empty(), "{arguments:?}: {ran:?}");
    ran.out.lines().map(str::to_owned).collect()
}

/// Runs what must fail with this exit status and a message that has all of these words.
fn fails(store: &Store, arguments: &[&str], status: i32, words: &[&str]) -> Ran {
    let ran = run(store, arguments);
    assert_eq!(ran.status, status, "{arguments:?}: {ran:?}");
    assert!(ran.err.starts_with("Error: "), "{arguments:?}: {ran:?}");
    words.iter().for_each(|word| assert!(ran.err.contains(word), "{word}: {ran:?}"));
    ran
}

/// `,"created":...` so long ago.
fn created(ago: Duration) -> String {
    let time = SystemTime::now() - ago;
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let date = Command::new("date").args(["-u", "-d", &format!("@{seconds}"), "+%FT%TZ"]).output();
    format!(r#","created":"{}""#, String::from_utf8(date.unwrap().stdout).unwrap().trim())
}

const HOUR: Duration = Duration::from_secs(3600);

/// `base:1` with another name, two images upon it, the nearer one without a name, and one beside them.
fn family(dir: &Sandbox) -> (Store, [Image; 4]) {
    let store = store(dir);
    let large = "base".repeat(3000);
    let old = format!(r#"{},"config":{{"Labels":{{"tier":"low"}}}}"#, created(50 * HOUR));
    let base = add_with(&store, "base:1", &[&large], &old);
    store.tag("base:1", "registry.example:5000/team/base").unwrap();
    let middle = add_with(&store, "app", &[&large, "middle"], &created(3 * HOUR));
    let app = add_with(&store, "app", &[&large, "middle", "top"], &created(2 * HOUR));
    let other = add_with(&store, "other", &["other"], &created(HOUR / 60));
    (store, [base, middle, app, other])
}

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
    assert_eq!(lines(&store, &["system", "df"]).len(), 3);
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
    assert_eq!(time, ["2026-01-31T12:00:00+00:00"]);
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
fn space_is_told_by_kind_and_by_image() {
    let dir = setup("cli-df");
    let (store, [base, middle, app, other]) = family(&dir);
    store.pin("container-1", &app).unwrap();
    store.work().unwrap().ingest(&[b'x'; 2500][..], None).unwrap();
    let table = lines(&store, &["system", "df"]);
    assert_eq!(table[0], "TYPE      TOTAL     ACTIVE    SIZE      RECLAIMABLE");
    assert!(table[1].starts_with("Images    4         1         1"), "{table:#?}");
    assert!(
        table[2].starts_with("Garbage   -         -         2.5kB     2.5kB (100%)"),
        "{table:#?}"
    );
    let json = lines(&store, &["system", "df", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&json[0]).unwrap();
    assert_eq!((&json["Type"], &json["TotalCount"]), (&"Images".into(), &"4".into()));
    let details = lines(&store, &["system", "df", "-v"]);
    assert_eq!(details[..2], ["Images space usage:", ""]);
    assert!(
        details[2].ends_with("SIZE      SHARED SIZE   UNIQUE SIZE   CONTAINERS"),
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
fn archives_carry_images_with_names_from_store_to_store() {
    let dir = setup("cli-archives");
    let (store, [base, middle, app, _]) = family(&dir);
    let archive = dir.join("images.tar");
    let file = archive.to_str().unwrap();
    store.tag("base:1", "base:2").unwrap();
    let id = middle.id().to_string();
    // A repository stands for all of its tags.
    assert!(lines(&store, &["save", "-o", file, "base", "app", &id]).is_empty());
    assert_eq!(fs::read_dir(&*dir).unwrap().count(), 2, "no temporary file");
    let names = |prefix: &str| {
        let mut names = ["app:latest", "base:1", "base:2"].map(|name| format!("{prefix}: {name}"));
        names.sort();
        names.to_vec()
    };
    let new = dir.join("new");
    let root = new.to_str().unwrap();
    let mut said = lines(&store, &["--root", root, "load", "--quiet", "--input", file]);
    said.sort();
    let nameless = format!("Loaded image ID: {id}");
    assert_eq!(said, [&[nameless][..], &names("Loaded image")].concat());
    let loaded = Store::open_existing(&new).unwrap();
    assert_eq!(loaded.image("app").unwrap(), app);
    assert_eq!(loaded.image("base:2").unwrap(), base);
    sound(&loaded);
    // From standard output to standard input.
    let mut save = command(&["image", "save", "app"]);
    save.env("CORACLE_ROOT", store.path()).stdout(Stdio::piped());
    let mut save = save.spawn().unwrap();
    let mut load = command(&["image", "load"]);
    let piped = dir.join("piped");
    let ran = finish(load.env("CORACLE_ROOT", &piped).stdin(save.stdout.take().unwrap()));
    assert!(save.wait().unwrap().success());
    assert_eq!((ran.out.as_str(), ran.status), ("Loaded image: app:latest\n", 0), "{ran:?}");
}

#[test]
fn a_root_filesystem_is_imported_with_what_it_is_to_run() {
    let dir = setup("cli-import");
    let root = dir.dir("root/etc");
    fs::write(root.join("motd"), "hello").unwrap();
    let archive = dir.join("root.tar");
    let tar = Command::new("tar")
        .arg("-C")
        .arg(dir.join("root"))
        .arg("-cf")
        .arg(&archive)
        .arg(".")
        .status();
    assert!(tar.unwrap().success());
    let path = dir.join("images");
    let store = || Store::open_existing(&path).unwrap();
    let import = |arguments: &[&str], epoch: &str| {
        let mut command = command(&["import"]);
        command.args(arguments).env("CORACLE_ROOT", &path).env("SOURCE_DATE_EPOCH", epoch);
        finish(command.stdin(fs::File::open(&archive).unwrap()))
    };
    let file = archive.to_str().unwrap();
    let arguments = ["-c", "CMD [\"sh\"]", "--change", "ENV A=b", "-m", "from tar", file, "root:1"];
    let ran = import(&arguments, "1000000000");
    let id = ran.out.trim().to_owned();
    assert!(ran.status == 0 && ran.err.is_empty() && id.starts_with("sha256:"), "{ran:?}");
    let format = "{{.Id}} {{.Config.Cmd}} {{.Config.Env}} {{.Created}} {{.Comment}} {{.Os}}";
    let said = lines(&store(), &["inspect", "-f", format, "root:1"]);
    assert!(said[0].starts_with(&format!("{id} [sh] [")) && said[0].contains("A=b"), "{said:?}");
    assert!(said[0].ends_with("2001-09-09T01:46:40Z from tar linux"), "{said:?}");
    // The same from standard input, without a name and for another machine.
    assert_eq!(import(&["-"], "1").out, import(&["-"], "1").out);
    let other = import(&["--platform", "linux/arm64", "-"], "1").out;
    let architecture = lines(&store(), &["inspect", "-f", "{{.Architecture}}", other.trim()]);
    assert_eq!(architecture, ["arm64"]);
    for (arguments, epoch, why) in [
        (&["-c", "FROM x", "-"][..], "1", "FROM"),
        (&["-", "UPPER"], "1", "UPPER"),
        (&["/no/such.tar"], "1", "/no/such.tar"),
        (&["-"], "yesterday", "SOURCE_DATE_EPOCH is yesterday"),
    ] {
        let ran = import(arguments, epoch);
        assert!(ran.status == 1 && ran.err.contains(why), "{ran:?}");
    }
    assert_eq!(lines(&store(), &["images", "-aq"]).len(), 3);
    sound(&store());
}

#[test]
fn an_archive_that_cannot_be_written_or_read_whole_is_none() {
    let dir = setup("cli-no-archive");
    let store = store(&dir);
    add(&store, "app", &["app"]);
    let file = dir.file("old.tar", "old");
    let old = file.to_str().unwrap();
    fails(&store, &["save", "-o", old, "app", "nobody"], 1, &["no such image: nobody"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), "old", "what was there stays");
    let nowhere = dir.join("no/where.tar");
    let nowhere = nowhere.to_str().unwrap();
    fails(&store, &["save", "-o", nowhere, "app"], 1, &[nowhere, "No such file"]);
    let ran = fails(&store, &["save", "-o", "/dev/full", "app"], 1, &["ENOSPC"]);
    assert!(!ran.err.contains("of the store: remove images"), "it is another disk's: {ran:?}");
    fails(&store, &["save"], 1, &["IMAGE"]);
    fails(&store, &["load", "-i", nowhere], 1, &[nowhere, "No such file"]);
    fails(&store, &["load", "-i", old], 1, &["load an archive"]);
    // Nothing on standard input.
    fails(&store, &["load"], 1, &["load an archive"]);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut save = command(&["save", "app"]);
    save.env("CORACLE_ROOT", store.path()).stdout(writer).stderr(Stdio::piped());
    let output = save.spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.code() == Some(141) && output.stderr.is_empty(), "{output:?}");
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

#[test]
fn the_option_goes_before_the_variable_and_both_must_name_a_store() {
    let dir = setup("cli-root");
    let store = store(&dir);
    add(&store, "here", &["here"]);
    let other = Store::open(dir.join("other")).unwrap();
    let path = other.path().to_str().unwrap();
    for arguments in [["--root", path, "images", "-q"], ["images", "-q", "--root", path]] {
        assert!(lines(&store, &arguments).is_empty());
    }
    assert_eq!(lines(&store, &["images", "-q"]).len(), 1);
    let missing = dir.join("missing");
    let root = missing.to_str().unwrap();
    fails(&store, &["--root", root, "images"], 1, &["open the image store", root, "Hint: "]);
    assert!(!missing.exists(), "a mistyped name makes no store");
    fails(
        &store,
        &["--root", dir.file("full/of", "things").parent().unwrap().to_str().unwrap(), "images"],
        1,
        &["no image store", "Hint: "],
    );
}

#[test]
fn an_ordinary_user_has_a_store_of_their_own() {
    require!(common::not_root());
    let dir = setup("cli-home");
    let home = dir.dir("home");
    let at = |variable: &str, value: &Path| {
        let mut command = command(&["images", "-q"]);
        command.env_remove("XDG_DATA_HOME").env("HOME", &home).env(variable, value);
        let ran = finish(&mut command);
        assert!(ran.status == 0 && ran.err.is_empty(), "{ran:?}");
    };
    at("HOME", &home);
    assert!(home.join(".local/share/coracle/oci-layout").exists());
    at("XDG_DATA_HOME", &dir.join("data"));
    assert!(dir.join("data/coracle/oci-layout").exists());
    let mut command = command(&["images"]);
    let ran = finish(command.env_remove("XDG_DATA_HOME").env_remove("HOME"));
    assert!(ran.status == 1 && ran.err.contains("--root"), "{ran:?}");
}

#[test]
fn a_store_that_cannot_be_written_can_be_read() {
    let dir = setup("cli-read-only");
    let store = store(&dir);
    add(&store, "app", &["app"]);
    let mode = |mode| {
        for name in ["", "leases", "ingest", "trash", "blobs/sha256"] {
            fs::set_permissions(store.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }
    };
    // Modes do not stop root: a read-only mount does.
    let script = r#"mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@""#;
    let run = |arguments: &[&str]| match common::root() {
        Ok(()) => {
            let mut shell = Command::new("unshare");
            shell.args(["--mount", "sh", "-c", script]).arg(store.path()).arg(program());
            finish(shell.args(arguments).env("CORACLE_ROOT", store.path()))
        }
        Err(_) => run(&store, arguments),
    };
    mode(0o500);
    let read = [
        &["images", "-q"][..],
        &["history", "app"],
        &["inspect", "app"],
        &["system", "df"],
        &["verify"],
    ];
    let read = read.map(|arguments| (arguments, run(arguments)));
    let written = [&["tag", "app", "b"][..], &["rmi", "app"], &["prune", "-fa"]];
    let written = written.map(|arguments| (arguments, run(arguments)));
    mode(0o700);
    for (arguments, ran) in read {
        assert!(ran.status == 0 && ran.err.is_empty(), "{arguments:?}: {ran:?}");
    }
    for (arguments, ran) in written {
        assert!(ran.status == 1 && ran.err.starts_with("Error: "), "{arguments:?}: {ran:?}");
        assert!(ran.err.contains("EACCES") || ran.err.contains("EROFS"), "{arguments:?}: {ran:?}");
    }
    assert_eq!(lines(&store, &["images", "-q"]).len(), 1);
}

#[test]
fn whoever_stops_reading_hears_no_complaint() {
    let dir = setup("cli-pipe");
    let store = store(&dir);
    add(&store, "app", &["app"]);
    for arguments in [&["images"][..], &["inspect", "app"], &["images", "--help"], &["--version"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut command = command(arguments);
        command.env("CORACLE_ROOT", store.path()).stdout(writer).stderr(Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(141), "{arguments:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}");
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = command(&["images"]);
    command.env("CORACLE_ROOT", store.path()).stdout(full).stderr(Stdio::piped());
    let output = command.spawn().unwrap().wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"));
}

#[test]
fn a_wrong_command_line_ends_as_dockers_does() {
    let dir = setup("cli-usage");
    let store = store(&dir);
    for (arguments, status) in [
        (&["images", "--colour"][..], 125),
        (&["images", "-Z"], 125),
        (&["--colour"], 125),
        (&["history", "--human=perhaps", "app"], 125),
        (&["system", "df", "-v", "--format", "json"], 125),
        (&["imags"], 1),
        (&["image", "lss"], 1),
        (&["images", "a", "b"], 1),
        (&["inspect"], 1),
    ] {
        let ran = fails(&store, arguments, status, &["--help"]);
        assert!(ran.out.is_empty(), "{ran:?}");
    }
    for (arguments, words) in [
        (&[][..], &["Usage: coracle", "images", "Examples:", "Exit status:"][..]),
        (&["image"], &["Usage: coracle image"]),
        (&["system"], &["df"]),
        (&["images", "--help"], &["{{json .}}", "table TEMPLATE", ".CreatedSince", "until=TIME"]),
        (&["history", "--help"], &["{{json .}}", ".CreatedBy"]),
        (&["inspect", "--help"], &["{{index .RepoTags 0}}"]),
    ] {
        let help = lines(&store, arguments).join("\n");
        words.iter().for_each(|word| assert!(help.contains(word), "{word}: {help}"));
    }
}

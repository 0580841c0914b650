//! Images from registries and to them.

use std::fs;
use std::io::{Read, Write};

use coracle::image::Store;
use coracle::namespaces::{Command, TerminalSize};
use serde_json::Value;

use crate::common::http::Response;
use crate::common::images::{Layout, Packing, Skopeo, noise, tar};
use crate::common::registry::Registry;
use crate::common::relay::{Fault, Relay, Rule};
use crate::common::server::Scripted;
use crate::common::{self, require};
use crate::program;
use crate::remote::{open, scene};

const EVENTS: [&str; 7] = [
    "events",
    "--since",
    "1h",
    "--until",
    "0s",
    "--format",
    "{{.Type}} {{.Action}} {{.ID}} {{.Actor.Attributes.name}}",
];
const PASSWORD: &str = "open-sesame-9471";

#[test]
fn a_pull_prints_what_dockers_does() {
    let scene = require!(open("cli-pull"));
    let name = scene.server.name("app:1");
    let said = scene.lines(&["pull", &name]);
    assert_eq!(said[0], "1: Pulling from app");
    for layer in &scene.layers {
        for word in ["Pulling fs layer", "Download complete", "Pull complete"] {
            assert!(said.contains(&format!("{layer}: {word}")), "{word}: {said:#?}");
        }
    }
    let digest = format!("Digest: {}", scene.digest);
    let newer = format!("Status: Downloaded newer image for {name}");
    assert_eq!(said[said.len() - 3..], [digest.clone(), newer, name.clone()]);
    assert_eq!(said.len(), 1 + 2 * 3 + 3);
    let current = format!("Status: Image is up to date for {name}");
    let again = scene.lines(&["image", "pull", &name]);
    assert_eq!(again, ["1: Pulling from app".to_owned(), digest, current, name.clone()]);
    assert_eq!(scene.lines(&["pull", "-q", &name]), [name.as_str()]);

    let repository = scene.server.name("app");
    let said = scene.lines(&["pull", "-a", &repository]);
    assert_eq!(said.iter().filter(|line| line.contains(": Pulling from app")).count(), 2);
    assert!(
        said.contains(&format!("Status: Downloaded newer image for {repository}")),
        "{said:#?}"
    );
    let at = format!("{repository}@{}", scene.digest);
    let said = scene.lines(&["pull", &at]);
    assert_eq!(said[0], format!("{at}: Pulling from app"));
    assert_eq!(scene.lines(&["images", "-q", "--no-trunc", &scene.server.name("app:2")]).len(), 1);

    let told = scene.lines(&[&EVENTS[..], &["-f", &format!("image={repository}")]].concat());
    let mut by_all = told[3..5].to_vec();
    by_all.sort();
    let line = |name: &str| format!("image pull {name} {repository}");
    let other = scene.server.name("app:2");
    assert_eq!(told[..3], [line(&name), line(&name), line(&name)]);
    assert_eq!((by_all, told[5..].to_vec()), (vec![line(&name), line(&other)], vec![line(&at)]));

    scene.fails(&["pull", "-a", &scene.server.name("app:1")], 1, &["--all-tags/-a"]);
    scene.fails(&["pull"], 1, &["NAME"]);
    assert!(Store::open_existing(scene.store()).unwrap().verify().unwrap().is_sound());
}

#[test]
fn what_was_here_is_told_of_only_if_something_else_is_new() {
    let scene = require!(open("cli-pull-part"));
    let skopeo = require!(Skopeo::new(&scene.server));
    let mut layout = Layout::new(scene.dir.join("more"));
    let layers = [("one", &b"1"[..]), ("three", b"3")];
    let layers = layers.map(|file| layout.layer(&tar(&[file])[..], Packing::Gzip));
    layout.image("app", &layers);
    skopeo.push(layout.path(), "app", "app");
    scene.lines(&["pull", &scene.server.name("app:1")]);
    let said = scene.lines(&["pull", &scene.server.name("app")]);
    assert_eq!(said[0], "Using default tag: latest");
    assert!(said.contains(&format!("{}: Already exists", scene.layers[0])), "{said:#?}");
    assert_eq!(said.iter().filter(|line| line.ends_with("Pull complete")).count(), 1);
}

#[test]
fn what_fails_says_why_and_what_to_do() {
    let scene = require!(open("cli-pull-fails"));
    let relay = Relay::start(scene.server.address());
    let refused =
        Response::json(r#"{"errors":[{"code":"DENIED","message":"not for \u001b[31myou"}]}"#);
    relay.rule(Rule::get("/v2/secret/").fault(Fault::Respond(refused.status(403))));
    let forbidden = relay.name("secret/x:1");
    let missing = scene.server.name("app:3");
    for (arguments, words) in [
        (&["pull", &missing][..], &[&missing, "MANIFEST_UNKNOWN", "manifest unknown"][..]),
        (&["manifest", "inspect", &missing], &["manifest unknown"]),
        (&["pull", &scene.server.name("nobody")], &["404"]),
        (&["pull", "127.0.0.1:1/app"], &["127.0.0.1:1", "ECONNREFUSED", "is the port right?"]),
        (&["pull", "registry.invalid/app"], &["registry.invalid", "address is not known"]),
        (&["pull", &forbidden], &["DENIED: not for \\u{1b}[31myou", "Hint: "]),
        (&["pull", "UPPER"], &["\"UPPER\""]),
        (&["push", &scene.server.name("nothing")], &["no such image"]),
        (&["push", "-a", &scene.server.name("nothing")], &["does not exist locally"]),
        (&["search", "127.0.0.1:1/x"], &["127.0.0.1:1", "ECONNREFUSED"]),
        (&["search", "--limit", "0", "x"], &["limit"]),
        (&["search", "-f", "colour=red", "127.0.0.1:1/x"], &["invalid filter 'colour'"]),
        (&["search", "-f", "stars=many", "127.0.0.1:1/x"], &["invalid filter 'stars=many'"]),
        (
            &["login", "-u", "a", "-p", "b", "127.0.0.1:1"],
            &["log in to 127.0.0.1:1 as a", "ECONNREFUSED"],
        ),
    ] {
        let ran = scene.fails(arguments, 1, words);
        assert!(ran.err.contains("Error: ") && !ran.err.contains('\u{1b}'), "{ran:?}");
        // What to do is told in words of this command line.
        assert!(!ran.err.contains("Registry::") && !ran.err.contains("Builder::"), "{ran:?}");
    }
    scene.fails(&["pull", "--colour", "x"], 125, &["--colour"]);
    let store = Store::open_existing(scene.store()).unwrap();
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn a_push_sends_what_is_missing_and_prints_the_digest() {
    let scene = require!(open("cli-push"));
    let name = scene.server.name("app:1");
    scene.lines(&["pull", "-q", &name]);
    let other = require!(Registry::start());
    let target = other.name("team/app:new");
    scene.lines(&["tag", &name, &target]);
    scene.lines(&["tag", &name, &other.name("team/app")]);
    let said = scene.lines(&["push", &target]);
    assert_eq!(said[0], format!("The push refers to repository [{}]", other.name("team/app")));
    for layer in &scene.layers {
        assert!(said.contains(&format!("{layer}: Pushed")), "{said:#?}");
    }
    let last = said.last().unwrap();
    assert!(last.starts_with(&format!("new: digest: {} size: ", scene.digest)), "{said:#?}");
    let said = scene.lines(&["image", "push", &other.name("team/app")]);
    assert_eq!(said[0], "Using default tag: latest");
    assert!(said.contains(&format!("{}: Layer already exists", scene.layers[0])), "{said:#?}");
    assert_eq!(scene.lines(&["push", "-q", &target]), [target.as_str()]);
    let said = scene.lines(&["push", "-a", &other.name("team/app")]);
    assert_eq!(said.iter().filter(|line| line.contains(": digest: ")).count(), 2, "{said:#?}");
    scene.fails(&["push", "-a", &target], 1, &["--all-tags/-a"]);
    let mut pushed = scene.lines(&[&EVENTS[..], &["-f", "event=push"]].concat());
    pushed.sort();
    pushed.dedup();
    let names = ["team/app:latest", "team/app:new"].map(|name| other.name(name));
    let line = |name| format!("image push {name} {}", other.name("team/app"));
    assert_eq!(pushed, names.map(line));
    let skopeo = require!(Skopeo::new(&other));
    assert_eq!(skopeo.inspect("team/app:new").unwrap()["Digest"], scene.digest.as_str());
}

#[test]
fn a_login_is_proved_and_kept_and_the_password_never_shown() {
    let server = require!(Registry::builder().htpasswd("anna", PASSWORD).start());
    let scene = require!(scene("cli-login", server));
    let (host, name) = (scene.server.address(), scene.server.name("app:1"));
    let stdin = |arguments: &[&str], input: &str| {
        let ran = scene.run_with(&[&["login"], arguments].concat(), input);
        assert!(!ran.err.contains(PASSWORD) && !ran.out.contains(PASSWORD), "{ran:?}");
        ran
    };
    let hint = scene.fails(&["pull", &name], 1, &["401", "authentication required"]);
    assert!(hint.err.contains("Hint: log in (`coracle login`)"), "{hint:?}");
    let wrong = stdin(&["-u", "anna", "--password-stdin", host], "wrong\n");
    assert_eq!(wrong.status, 1);
    for word in [host, "as anna", "401", "user name or password are wrong"] {
        assert!(wrong.err.contains(word), "{word}: {wrong:?}");
    }
    for (arguments, why) in [
        (&["--password-stdin", host][..], "--username"),
        (&["-u", "anna", "-p", PASSWORD, "--password-stdin", host], "mutually exclusive"),
        (&["-u", "anna", host], "non TTY"),
        (&[host], "non TTY"),
        (&["-u", "anna", "--password-stdin", host], "empty"),
    ] {
        let ran = stdin(arguments, "");
        assert!(ran.status == 1 && ran.err.contains(why), "{arguments:?}: {ran:?}");
    }
    assert!(!scene.dir.join("docker").exists());
    let ran = stdin(&["-u", "anna", "--password-stdin", host], &format!("{PASSWORD}\n"));
    assert_eq!((ran.out.as_str(), ran.status), ("Login Succeeded\n", 0), "{ran:?}");
    assert!(ran.err.contains("unencrypted") && ran.err.contains("config.json"), "{ran:?}");
    scene.lines(&["pull", &name]);
    assert_eq!(scene.lines(&["logout", host]), [format!("Removing login credentials for {host}")]);
    assert_eq!(scene.lines(&["logout", host]), [format!("Not logged in to {host}")]);
    let hub = "Not logged in to https://index.docker.io/v1/";
    assert_eq!(scene.lines(&["logout"]), [hub]);
    let ran = stdin(&["-u", "anna", "-p", PASSWORD, host], "");
    assert!(ran.status == 0 && ran.err.contains("--password-stdin"), "{ran:?}");
}

#[test]
fn a_terminal_is_asked_for_the_password_and_shows_bars() {
    let server = require!(Registry::builder().htpasswd("anna", PASSWORD).start());
    let scene = require!(scene("cli-terminal", server));
    let on_terminal = |arguments: &[&str], answers: &[(&str, &str)]| {
        let mut command = Command::new(program());
        command.args(arguments).terminal(TerminalSize::new(120, 40));
        command.env("CORACLE_ROOT", scene.store()).env("DOCKER_CONFIG", scene.dir.join("docker"));
        command.env("TERM", "xterm");
        let mut child = command.spawn().unwrap();
        let mut terminal = child.terminal.take().unwrap();
        let mut seen = String::new();
        let mut answers = answers.iter();
        let mut next = answers.next();
        let mut bytes = [0; 4096];
        // The end of a terminal is an error.
        while let Ok(read @ 1..) = terminal.read(&mut bytes) {
            seen.push_str(&String::from_utf8_lossy(&bytes[..read]));
            if let Some((_, answer)) = next.filter(|(question, _)| seen.ends_with(question)) {
                terminal.write_all(answer.as_bytes()).unwrap();
                next = answers.next();
            }
        }
        (child.wait().unwrap().code().unwrap(), seen)
    };
    let host = scene.server.address();
    let typed = format!("wrong\u{15}x{}\u{7f}\n", &PASSWORD.replace("open", "\u{7f}open"));
    let typed = typed.replace("9471\u{7f}", "94710\u{7f}");
    let answers = [("Username: ", "anna\n"), ("Password: ", typed.as_str())];
    let (status, seen) = on_terminal(&["login", host], &answers);
    assert!(status == 0 && seen.contains("Login Succeeded"), "{seen}");
    assert!(!seen.contains("sesame") && !seen.contains("wrong"), "{seen}");
    let (status, seen) = on_terminal(&["login", "-u", "anna", host], &[("Password: ", "x\u{3}")]);
    assert!(status == 130 && !seen.contains("Error"), "{status}: {seen}");
    let mut layout = Layout::new(scene.dir.join("large"));
    let large = layout.layer(&tar(&[("large", &noise(3_000_000, 1))])[..], Packing::Gzip);
    layout.image("large", std::slice::from_ref(&large));
    let skopeo = require!(Skopeo::new(&scene.server));
    skopeo.push(layout.path(), "large", "large:1");
    // Between one piece and the next there is time to see the bar.
    let relay = Relay::start(scene.server.address());
    relay.rule(Rule::get("/v2/large/blobs/").fault(Fault::CutAfter(500_000)));
    on_terminal(&["login", "-u", "anna", &relay.address()], &[("Password: ", &typed)]);
    let (status, seen) = on_terminal(&["pull", &relay.name("large:1")], &[]);
    assert!(status == 0 && seen.contains("Status: Downloaded newer image"), "{seen}");
    let layer = &large.descriptor["digest"].as_str().unwrap()[7..19];
    assert!(seen.contains(&format!("{layer}: Downloading [")), "{seen}");
    let (status, seen) = on_terminal(&["pull", &scene.server.name("app:1")], &[]);
    assert!(status == 0 && seen.contains("Status: Downloaded newer image"), "{seen}");
    assert!(seen.contains(&format!("{}: Pull complete", scene.layers[0])), "{seen}");
    assert!(!seen.contains("Pulling fs layer"), "{seen}");
}

#[test]
fn a_mirror_of_docker_hub_is_asked() {
    let scene = require!(open("cli-mirror"));
    let skopeo = require!(Skopeo::new(&scene.server));
    skopeo.push(&scene.dir.join("layout"), "app", "library/app:1");
    let relay = Relay::start(scene.server.address());
    let mirror = format!("http://{}/", relay.address());
    let said = scene.lines(&["--registry-mirror", &mirror, "pull", "app:1"]);
    assert!(said.contains(&format!("Digest: {}", scene.digest)), "{said:#?}");
    assert_eq!(said.last().unwrap(), "docker.io/library/app:1");
    assert!(relay.requests().iter().all(|it| it.path().starts_with("/v2/library/app/")));
}

#[test]
fn of_several_platforms_one_is_pushed() {
    let scene = require!(open("cli-push-platform"));
    let mut layout = Layout::new(scene.dir.join("index"));
    let layer = layout.layer(&tar(&[("a", b"a")])[..], Packing::Plain);
    let parts =
        ["amd64", "arm64"].map(|machine| layout.manifest(machine, std::slice::from_ref(&layer)));
    layout.index("many", &parts);
    let skopeo = require!(Skopeo::new(&scene.server));
    skopeo.push(layout.path(), "many", "many:1");
    let (many, one) = (scene.server.name("many:1"), scene.server.name("one:1"));
    scene.lines(&["pull", "-q", "--platform", "linux/arm64", &many]);
    scene.lines(&["tag", &many, &one]);
    scene.fails(&["push", "--platform", "linux/s390x", &one], 1, &["s390x"]);
    scene.lines(&["push", "--platform", "linux/arm64", &one]);
    assert_eq!(skopeo.inspect("one:1").unwrap()["Digest"], parts[1]["digest"]);
}

/// As Docker Hub writes, with what commands a terminal.
const FOUND: &str = r#"{"results":[
    {"name":"team/app","description":"first\nline \u001b[2Jand so much more that it does not fit","star_count":7},
    {"name":"app","description":"Official.","star_count":5000,"is_official":true,"is_automated":true}]}"#;

#[test]
fn a_search_prints_a_table_the_best_first() {
    let scene = require!(open("cli-search"));
    let server = Scripted::start(|_| Response::json(FOUND));
    let host = server.address();
    let term = format!("{host}/app");
    let said = scene.lines(&[
        "search",
        "--format",
        "{{.Name}}|{{.StarCount}}|{{.IsOfficial}}|{{.IsAutomated}}",
        &term,
    ]);
    let best = [format!("{host}/app|5000|[OK]|[OK]"), format!("{host}/team/app|7||")];
    assert_eq!(said, best);
    let table = scene.lines(&["search", &term]);
    let columns: Vec<_> = table[0].split_whitespace().collect();
    assert_eq!(columns, ["NAME", "DESCRIPTION", "STARS", "OFFICIAL", "AUTOMATED"]);
    assert!(
        table[2].contains("first line \\u001b[2Jand so much") && table[2].contains('…'),
        "{table:#?}"
    );
    let whole = scene.lines(&["search", "--no-trunc", "-f", "is-official=false", &term]);
    assert!(whole.len() == 2 && whole[1].contains("that it does not fit"), "{whole:#?}");
    assert_eq!(scene.lines(&["search", "--filter", "stars=5001", &term]).len(), 1);
    assert_eq!(server.requests().pop().unwrap().query("n"), ["25"]);
    scene.lines(&["search", "--limit", "7", &term]);
    assert_eq!(server.requests().pop().unwrap().query("n"), ["7"]);
    // A real one knows names only.
    let said = scene.lines(&["search", "--format", "{{.Name}}", &scene.server.name("ap")]);
    assert_eq!(said, [scene.server.name("app")]);
}

#[test]
fn a_manifest_is_shown_as_it_is_there() {
    let scene = require!(open("cli-manifest"));
    let name = scene.server.name("app:1");
    let said = scene.run(&["manifest", "inspect", &name]);
    assert!(said.out.starts_with("{\n\t\""), "{said:?}");
    let shown: Value = serde_json::from_str(&said.out).unwrap();
    let raw = require!(Skopeo::new(&scene.server)).raw("app:1").unwrap();
    assert_eq!(shown, serde_json::from_slice::<Value>(&raw).unwrap());
    let said = scene.run(&["manifest", "inspect", "-v", &name]);
    let shown: Value = serde_json::from_str(&said.out).unwrap();
    assert_eq!(shown["Ref"], name.as_str());
    assert_eq!(shown["Descriptor"]["digest"], scene.digest.as_str());
    assert_eq!(shown["OCIManifest"]["layers"].as_array().unwrap().len(), 2);

    let mut layout = Layout::new(scene.dir.join("index"));
    let layer = layout.layer(&tar(&[("a", b"a")])[..], Packing::Plain);
    let parts =
        ["amd64", "arm64"].map(|machine| layout.manifest(machine, std::slice::from_ref(&layer)));
    layout.index("many", &parts);
    require!(Skopeo::new(&scene.server)).push(layout.path(), "many", "many:1");
    let said = scene.run(&["manifest", "inspect", "--verbose", &scene.server.name("many:1")]);
    let shown: Value = serde_json::from_str(&said.out).unwrap();
    let machines: Vec<_> = shown
        .as_array()
        .unwrap()
        .iter()
        .map(|it| &it["Descriptor"]["platform"]["architecture"])
        .collect();
    assert_eq!(machines, ["amd64", "arm64"]);
    assert!(!scene.store().exists(), "nothing is stored");
    let many = scene.server.name("many:1");
    scene.fails(&["pull", "--platform", "linux/s390x", &many], 1, &["s390x"]);
    let said = scene.lines(&["pull", "--platform", "linux/arm64", &many]);
    assert!(said.contains(&format!("Status: Downloaded newer image for {many}")), "{said:#?}");
}

#[test]
fn a_run_fetches_what_is_missing_or_what_it_is_told() {
    let scene = require!(open("cli-run-pull"));
    require!(common::stacks_in_memory());
    require!(common::containers());
    let name = scene.server.name("app:1");
    let run = |pull: &[&str]| {
        // There is no program in it; that comes after the image.
        scene.run(&[&["run", "--rm"], pull, &[&name, "/one"]].concat())
    };
    scene.lines(&["pull", "-q", &scene.server.name("app:2")]);
    assert_eq!(scene.lines(&["rmi", &scene.server.name("app:2")]).len(), 2);
    let quiet = run(&["-q"]);
    assert!(quiet.status == 126 && quiet.err.starts_with("Error: start "), "{quiet:?}");
    assert_eq!(scene.lines(&["rmi", &name]).len(), 2);
    let never = run(&["--pull", "never"]);
    assert!(never.status == 125 && never.err.contains("no such image"), "{never:?}");
    let missing = run(&[]);
    assert_eq!(missing.status, 126, "{missing:?}");
    let first = format!("Unable to find image '{name}' locally\n1: Pulling from app\n");
    assert!(missing.err.starts_with(&first), "{missing:?}");
    assert!(missing.err.contains("Status: Downloaded newer image") && missing.out.is_empty());
    let here = run(&["--pull=missing"]);
    assert!(here.status == 126 && !here.err.contains("Pulling"), "{here:?}");
    let always = run(&["--pull", "always"]);
    assert!(always.status == 126 && always.err.contains("Image is up to date"), "{always:?}");
    let gone = scene.run(&["run", "--rm", &scene.server.name("app:3"), "x"]);
    assert!(gone.status == 125 && gone.err.contains("manifest unknown"), "{gone:?}");
    let ran = scene.run(&["run", "--rm", "--pull", "maybe", &name]);
    assert_eq!(ran.status, 125);
}

#[test]
fn certificates_are_found_by_the_registrys_name() {
    let server = require!(Registry::builder().client_certificates().start());
    let dir = common::setup("cli-certificates");
    let at = dir.dir("certs").join(server.address());
    let certificates = dir.join("certs");
    let scene = require!(open("cli-certificates-store"));
    let name = server.name("app:1");
    let cert_dir = ["--cert-dir", certificates.to_str().unwrap()];
    let pull = |words: &[&str]| scene.fails(&[&cert_dir[..], &["pull", &name]].concat(), 1, words);
    let stranger = pull(&["TLS failed"]);
    assert!(stranger.err.contains("Hint: a ca.crt in --cert-dir"), "{stranger:?}");
    fs::create_dir(&at).unwrap();
    fs::copy(server.trust_dir().join("ca.crt"), at.join("ca.crt")).unwrap();
    pull(&["TLS failed"]);
    for file in ["client.cert", "client.key"] {
        fs::copy(server.client_dir().join(file), at.join(file)).unwrap();
    }
    pull(&["404"]);
    fs::write(at.join("client.key"), "none").unwrap();
    pull(&["certificate for", "no private key"]);
    fs::remove_file(at.join("client.key")).unwrap();
    pull(&["client.key", "No such file"]);
}

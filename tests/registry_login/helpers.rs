//! Credential helpers: programs that keep credentials.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use coracle::ErrorKind;
use coracle::registry::{Kept, Registry};
use serde_json::{Value, json};

use crate::common::registry::Registry as Server;
use crate::common::require;
use crate::common::tokens::TokenServer;
use crate::{PASSWORD, anna, config, configured, is_in, later, locked, told, write_config};

/// Keeps one file for each server, notes how it was called, and says what Docker's own helpers say.
const KEEPER: &str = r#"#!/bin/sh
set -eu
kept=$(dirname "$0")/kept
mkdir -p "$kept"
echo "$*" >>"$kept.calls"
input=$(cat)
file() { echo "$kept/$(printf %s "$1" | tr /: __)"; }
case $1 in
    store) printf %s "$input" >"$(file "$(printf %s "$input" | sed 's/.*"ServerURL":"\([^"]*\)".*/\1/')")" ;;
    get) cat "$(file "$input")" 2>/dev/null || { echo "credentials not found in native keychain"; exit 1; } ;;
    erase) rm "$(file "$input")" ;;
esac
"#;

fn helper(dir: &Path, name: &str, script: &str) {
    let file = dir.parent().unwrap().join("bin").join(format!("docker-credential-{name}"));
    fs::write(&file, script).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
}

/// What the helper keeps, for each server.
fn kept(dir: &Path) -> Vec<Value> {
    let entries = fs::read_dir(dir.parent().unwrap().join("bin/kept"));
    let files = entries.into_iter().flatten().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    files.map(|file| serde_json::from_slice(&file).unwrap()).collect()
}

#[test]
fn the_one_that_the_configuration_names_keeps_them() {
    configured(|dir| {
        let server = require!(locked());
        helper(dir, "keeper", KEEPER);
        let stale = json!({ "auth": "c3RhbGU6c3RhbGU=" });
        for config_before in [
            json!({ "auths": { server.address(): stale }, "credsStore": "keeper" }),
            json!({ "credsStore": "missing", "credHelpers": { server.address(): "keeper" } }),
        ] {
            write_config(&config_before.to_string());
            let client = later();
            let login = client.login(server.address(), anna()).blocking().unwrap();
            assert_eq!(login, Kept::Helper("keeper".to_owned()));
            let entry =
                json!({ "ServerURL": server.address(), "Username": "anna", "Secret": PASSWORD });
            assert_eq!(kept(dir), [entry]);
            assert_eq!(config()["auths"], json!({ server.address(): {} }));
            assert!(is_in(&later(), &server));
            assert!(client.logout(server.address()).blocking().unwrap());
            assert!(kept(dir).is_empty());
            assert!(!is_in(&client, &server));
            assert!(!client.logout(server.address()).blocking().unwrap());
        }
        let calls = fs::read_to_string(dir.parent().unwrap().join("bin/kept.calls")).unwrap();
        assert!(calls.lines().all(|call| ["get", "store", "erase"].contains(&call)), "{calls}");
    });
}

#[test]
fn identity_tokens_are_told_from_passwords() {
    configured(|dir| {
        let tokens = require!(TokenServer::start());
        tokens.user("anna", PASSWORD);
        tokens.policy(|user, _, _| user.is_some());
        let server = require!(Server::builder().tokens(&tokens).start());
        helper(dir, "keeper", KEEPER);
        write_config(r#"{"credsStore":"keeper"}"#);
        later().login(server.address(), anna()).blocking().unwrap();
        assert_eq!(kept(dir)[0]["Username"], "<token>");
        assert!(kept(dir)[0]["Secret"].as_str().unwrap().starts_with("refresh-"));
        assert!(is_in(&later(), &server));
    });
}

#[test]
fn one_that_fails_is_named_and_secrets_are_not() {
    configured(|dir| {
        let server = require!(locked());
        let before = r#"{"credsStore":"bad"}"#;
        let client = Registry::builder().docker_config().helper_timeout(Duration::from_millis(300));
        let client = client.build().unwrap();
        for (script, kind, words) in [
            (None, ErrorKind::NotFound, &["docker-credential-bad", "PATH"][..]),
            (Some("#!/bin/sh\ncat; exit 1"), ErrorKind::Unavailable, &["store", "exit status: 1"]),
            (
                Some("#!/bin/sh\nexec <&-; echo pass is not initialized; exit 3"),
                ErrorKind::Unavailable,
                &["docker-credential-bad", "exit status: 3", "pass is not initialized"],
            ),
            (
                Some("#!/bin/sh\nexec sleep 1000"),
                ErrorKind::TimedOut,
                &["docker-credential-bad", "300ms"],
            ),
            (Some("no program"), ErrorKind::InvalidInput, &["docker-credential-bad"]),
        ] {
            if let Some(script) = script {
                helper(dir, "bad", script);
            }
            write_config(before);
            let err = client.login(server.address(), anna()).blocking().unwrap_err();
            let told = told(&err);
            assert_eq!(err.kind(), kind, "{told}");
            words.iter().for_each(|word| assert!(told.contains(word), "{word}: {told}"));
            assert_eq!(config().to_string(), before, "nothing is noted");
        }
        write_config(r#"{"credsStore":"../../bin/sh"}"#);
        let err = client.login(server.address(), anna()).blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput, "{}", told(&err));
    });
}

#[test]
fn one_that_does_not_answer_is_not_waited_for() {
    configured(|dir| {
        let server = require!(locked());
        // It goes when the test's process has gone.
        helper(dir, "slow", "#!/bin/sh\nwhile kill -0 $PPID; do sleep 0.1; done");
        write_config(r#"{"credsStore":"slow"}"#);
        let client = Registry::builder().docker_config().helper_timeout(Duration::from_millis(300));
        let store = coracle::image::Store::open(dir.parent().unwrap().join("store")).unwrap();
        let client = client.build().unwrap();
        let err = client.pull(server.name("nothing:1"), &store).blocking().unwrap_err();
        assert_eq!(err.kind(), ErrorKind::TimedOut, "{}", told(&err));
    });
}

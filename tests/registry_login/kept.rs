//! Docker's configuration, read and written beside what others have in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use coracle::ErrorKind;
use coracle::registry::Registry;
use serde_json::json;

use crate::common::http::Response;
use crate::common::server::Scripted;
use crate::common::tokens::basic;
use crate::common::{program, require};
use crate::write_config;
use crate::{PASSWORD, anna, config, config_file, configured, is_in, later, locked, told};

fn mode() -> u32 {
    fs::metadata(config_file()).unwrap().permissions().mode() & 0o7777
}

fn names_beside() -> Vec<String> {
    let entries = fs::read_dir(config_file().parent().unwrap()).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn the_file_is_its_owners_alone_and_keeps_all_else_in_order() {
    configured(|dir| {
        let server = require!(locked());
        later().login(server.address(), anna()).blocking().unwrap();
        assert_eq!(mode(), 0o600);
        assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o7777, 0o700);

        let written = "{\n\t\"zebra\": [1.50, {\"b\":1, \"a\":2}],\n\t\"auths\": {\n\t\t\"z.example\": {\n\t\t\t\"auth\": \"eDp5\",\n\t\t\t\"email\": \"x@y\"\n\t\t}\n\t},\n\t\"psFormat\": \"table {{.ID}}\\\\t{{.Image}}\"\n}";
        write_config(written);
        fs::set_permissions(config_file(), fs::Permissions::from_mode(0o644)).unwrap();
        later().login(server.address(), anna()).blocking().unwrap();
        assert_eq!(mode(), 0o600);
        let text = fs::read_to_string(config_file()).unwrap();
        let (before, after) = written.split_once("\n\t},\n\t\"psFormat").unwrap();
        assert!(text.starts_with(before), "{text}");
        assert!(text.ends_with(&format!("\n\t}},\n\t\"psFormat{after}")), "{text}");
        assert!(later().logout(server.address()).blocking().unwrap());
        assert_eq!(fs::read_to_string(config_file()).unwrap(), written);
        assert!(!later().logout(server.address()).blocking().unwrap());
        assert_eq!(names_beside(), ["config.json"]);
    });
}

#[test]
fn a_link_stays_one() {
    configured(|dir| {
        let server = require!(locked());
        write_config("{}");
        let real = dir.parent().unwrap().join("dotfiles.json");
        fs::rename(config_file(), &real).unwrap();
        symlink(&real, config_file()).unwrap();
        later().login(server.address(), anna()).blocking().unwrap();
        assert_eq!(fs::read_link(config_file()).unwrap(), real);
        assert!(fs::read_to_string(&real).unwrap().contains(server.address()));
        assert!(is_in(&later(), &server));
    });
}

#[test]
fn what_cannot_be_read_is_left_alone() {
    configured(|_| {
        let server = require!(locked());
        for wrong in [format!("{{\"auths\": {PASSWORD}"), format!("{{\"auths\": \"{PASSWORD}\"}}")]
        {
            write_config(&wrong);
            let err = later().login(server.address(), anna()).blocking().unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Malformed, "{}", told(&err));
            let err = later().logout(server.address()).blocking().unwrap_err();
            assert!(told(&err).contains("config.json"), "{err:?}");
            assert_eq!(fs::read_to_string(config_file()).unwrap(), wrong);
        }
        assert_eq!(names_beside(), ["config.json"]);
        fs::remove_file(config_file()).unwrap();
        fs::create_dir(config_file()).unwrap();
        let err = later().login(server.address(), anna()).blocking().unwrap_err();
        assert!(told(&err).contains("config.json"), "{err:?}");
    });
}

#[test]
fn many_at_once_lose_nothing() {
    configured(|_| {
        let servers: Vec<_> = (0..8).map(|_| Scripted::start(|_| Response::json("{}"))).collect();
        std::thread::scope(|scope| {
            for server in &servers {
                scope.spawn(|| later().login(server.address(), anna()).blocking().unwrap());
            }
        });
        assert_eq!(config()["auths"].as_object().unwrap().len(), servers.len());
        std::thread::scope(|scope| {
            for server in &servers {
                scope.spawn(|| assert!(later().logout(server.address()).blocking().unwrap()));
            }
        });
        assert_eq!(config(), json!({ "auths": {} }));
    });
}

#[test]
fn docker_hub_has_its_own_name_there() {
    configured(|_| {
        // A proxy that is asked for Docker Hub, and answers itself.
        let hub = Scripted::start(|request| match request.header("Authorization") {
            None => Response::new(401).header("WWW-Authenticate", "Basic realm=\"hub\""),
            Some(_) => Response::json("{}"),
        });
        let client = Registry::builder().docker_config().proxy(hub.url()).plain_http("docker.io");
        let client = client.build().unwrap();
        client.login("index.docker.io", anna()).blocking().unwrap();
        let asked = hub.requests();
        assert_eq!(asked.len(), 2);
        assert!(asked.iter().all(|it| it.target == "http://registry-1.docker.io/v2/"), "{asked:?}");
        assert_eq!(asked[1].header("Authorization"), Some(basic("anna", PASSWORD).as_str()));
        let key = "https://index.docker.io/v1/";
        assert!(config()["auths"][key]["auth"].is_string());
        assert!(client.logout("docker.io").blocking().unwrap());
        assert_eq!(config(), json!({ "auths": {} }));
    });
}

#[test]
fn skopeo_reads_what_we_keep_and_we_what_skopeo_keeps() {
    configured(|_| {
        let server = require!(locked());
        let skopeo = require!(program("skopeo"));
        let authfile = format!("--authfile={}", config_file().display());
        let run = |arguments: &[&str]| {
            let output = Command::new(&skopeo).args(arguments).output().unwrap();
            (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let list = || {
            let name = format!("docker://{}", server.name("nothing:1"));
            run(&["inspect", "--tls-verify=false", &authfile, &name]).1
        };
        write_config("{}");
        assert!(list().contains("authentication required"));
        later().login(server.address(), anna()).blocking().unwrap();
        assert!(list().contains("manifest unknown"), "{}", list());
        later().logout(server.address()).blocking().unwrap();
        assert!(list().contains("authentication required"));
        let (fine, said) = run(&[
            "login",
            "--tls-verify=false",
            &authfile,
            "-u",
            "anna",
            "-p",
            PASSWORD,
            server.address(),
        ]);
        assert!(fine, "{said}");
        assert!(is_in(&later(), &server));
        assert!(later().logout(server.address()).blocking().unwrap());
        assert!(!is_in(&later(), &server));
    });
}

//! Who is logged in where: proved at real registries, and kept as Docker's tools keep it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "../common/mod.rs"]
mod common;
mod helpers;
mod kept;
mod proved;
mod secrets;

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::registry::Registry as Server;
use common::{Missing, setup};
use coracle::Error;
use coracle::registry::{Credentials, Registry};
use serde_json::Value;

const PASSWORD: &str = "open-sesame-9471";

/// Runs the body of the calling test in a process of its own, in which Docker's configuration is in a directory that does
/// not exist yet, and programs are looked for in the directory `bin` beside it first.
fn configured(body: impl FnOnce(&Path)) {
    const MARK: &str = "CORACLE_TEST_CONFIGURED";
    if env::var_os(MARK).is_some() {
        return body(Path::new(&env::var_os("DOCKER_CONFIG").unwrap()));
    }
    let dir = setup("login");
    let usual = env::var_os("PATH").unwrap();
    // In one that may not be looked into, everything is found and forbidden.
    let usual = env::split_paths(&usual).filter(|dir| fs::read_dir(dir).is_ok());
    let path = [dir.dir("bin")].into_iter().chain(usual);
    let mut command = Command::new("env");
    command.env(MARK, "1").env("PATH", env::join_paths(path).unwrap());
    command.env("HOME", "/nonexistent").env("DOCKER_CONFIG", dir.join("docker"));
    common::rerun(command);
}

fn config_file() -> PathBuf {
    Path::new(&env::var_os("DOCKER_CONFIG").unwrap()).join("config.json")
}

fn config() -> Value {
    serde_json::from_slice(&fs::read(config_file()).unwrap()).unwrap()
}

fn write_config(text: &str) {
    fs::create_dir_all(config_file().parent().unwrap()).unwrap();
    fs::write(config_file(), text).unwrap();
}

/// A registry that lets only anna in.
fn locked() -> Result<Server, Missing> {
    Server::builder().htpasswd("anna", PASSWORD).start()
}

fn anna() -> Credentials {
    Credentials::password("anna", PASSWORD)
}

/// A client as later programs have it.
fn later() -> Registry {
    Registry::from_docker_config().unwrap()
}

/// Whether who has this client is let in.
fn is_in(client: &Registry, server: &Server) -> bool {
    let store = coracle::image::Store::open(setup("login-store").join("store")).unwrap();
    let err = client.pull(server.name("nothing:1"), &store).blocking().unwrap_err();
    match err.kind() {
        coracle::ErrorKind::NotFound => true,
        coracle::ErrorKind::PermissionDenied => false,
        _ => panic!("{err:?}"),
    }
}

/// The error, in full, after a look for what must not be in it.
#[track_caller]
fn told(err: &Error) -> String {
    let told = format!("{err:?}\n{err:#}\n{err}");
    assert!(!told.contains(PASSWORD), "{told}");
    told
}

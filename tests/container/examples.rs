//! The examples do what they say.

use std::process::Command;

use crate::common::{cgroup_controller, program, require, root, user_namespaces};
use crate::{example, scene};

#[test]
fn a_test_has_a_redis_server_to_itself() {
    require!(user_namespaces());
    require!(program("redis-server"));
    let output = Command::new(example("test_harness")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn a_controller_keeps_services_running() {
    let scene = require!(scene("example-paas"));
    require!(root());
    require!(cgroup_controller("memory"));
    // With the descriptors that a system gives to a service which asks for no more.
    let mut paas = Command::new("sh");
    paas.args(["-c", r#"ulimit -Sn 1024; exec "$0" "$@""#]).arg(example("paas"));
    let output = paas.arg(scene.dir.join("root")).arg("box").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(said.lines().count(), 10, "{said}");
    // One is killed every second.
    let last = said.lines().last().unwrap();
    let restarts = last.rsplit_once("anew ").and_then(|(_, rest)| rest.strip_suffix(" times"));
    assert!(restarts.unwrap().parse::<u32>().unwrap() >= 1, "{said}");
    assert!(scene.engine.containers().unwrap().is_empty());
}

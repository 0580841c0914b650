//! Containers that are asked whether they are well.

use std::time::{Duration, Instant};

use coracle::container::{Container, HealthCheck, HealthStatus, Phase};
use coracle::image::{ConfigChanges, Import};
use coracle::namespaces::Command;
use coracle::{Engine, ErrorKind};

use crate::common::{alone, audit, require};
use crate::detached::{detach, until};
use crate::scene;

const PATIENCE: Duration = Duration::from_secs(60);

/// Asks often, by this line.
fn check(line: &str) -> HealthCheck {
    HealthCheck::shell(line).interval(Duration::from_millis(20))
}

fn health(container: &Container) -> coracle::container::Health {
    container.status().unwrap().health.unwrap()
}

fn run(container: &Container, line: &str) {
    let mut command = Command::new("sh");
    command.arg("-c").arg(line);
    assert!(container.exec_command(command).unwrap().wait().unwrap().success());
}

#[test]
fn it_is_well_falls_ill_and_recovers() {
    alone(|| {
        let scene = require!(scene("health-life"));
        scene.warm_up();
        let before = audit::snapshot();
        let builder = scene.engine.container("box").command(["sleep", "600"]).env("WHAT", "here");
        let builder = builder.health_check(check("echo $WHAT; pwd >&2; test -e /well").retries(2));
        let container = builder.create().unwrap();
        assert_eq!(health(&container).status, HealthStatus::Starting);
        let mut events = scene.engine.events().action("health_status").listen().unwrap();
        container.start().unwrap();
        let told = |events: &mut coracle::container::events::EventStream| {
            events.next_timeout(PATIENCE).unwrap().unwrap().action
        };
        assert_eq!(told(&mut events), "health_status: unhealthy");
        let ill = health(&container);
        assert_eq!(ill.status, HealthStatus::Unhealthy);
        assert!(ill.failing_streak >= 2, "{ill:?}");
        let probe = ill.probes.last().unwrap();
        assert_eq!((probe.exit_code, probe.output.as_str()), (1, "here\n/\n"));
        assert!(probe.started <= probe.ended);
        let err = container.wait_healthy(Duration::from_millis(1)).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::TimedOut);
        assert!(format!("{err:#}").contains("unhealthy: here"), "{err:#}");
        run(&container, "touch /well");
        container.wait_healthy(PATIENCE).unwrap();
        assert_eq!(told(&mut events), "health_status: healthy");
        until("five results", || health(&container).probes.len() == 5);
        let well = health(&container);
        assert_eq!((well.status, well.failing_streak), (HealthStatus::Healthy, 0));
        // It ends as ever, whatever is being asked; and begins anew.
        container.stop(Duration::ZERO).unwrap();
        assert_eq!(container.status().unwrap().phase, Phase::Exited);
        let err = container.wait_healthy(PATIENCE).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:#}");
        container.start().unwrap();
        container.wait_healthy(PATIENCE).unwrap();
        container.remove_forced().unwrap();
        drop((events, scene));
        before.assert_unchanged();
    });
}

#[test]
fn a_check_that_takes_too_long_is_killed_and_one_that_cannot_be_started_fails() {
    let scene = require!(scene("health-late"));
    let builder = scene.engine.container("box").command(["sleep", "600"]);
    let late = check("echo begun; exec sleep 600").timeout(Duration::from_millis(100)).retries(1);
    let container = builder.clone().health_check(late).start().unwrap();
    until("it is late", || health(&container).status == HealthStatus::Unhealthy);
    let probe = health(&container).probes.pop().unwrap();
    assert_eq!(probe.exit_code, -1);
    assert_eq!(probe.output, "Health check exceeded timeout (100ms): begun\n");
    // Nothing is left of them but, perhaps, the next.
    until("they are gone", || {
        let mut command = Command::new("sh");
        command.arg("-c").arg("test $(ps | grep -c '[s]leep 600') -le 2");
        container.exec_command(command).unwrap().wait().unwrap().success()
    });
    container.remove_forced().unwrap();

    let nonesuch = HealthCheck::command(["nonesuch"]).interval(Duration::from_millis(20));
    let container = builder.health_check(nonesuch).start().unwrap();
    until("it fails", || health(&container).status == HealthStatus::Unhealthy);
    let probe = health(&container).probes.pop().unwrap();
    assert!(probe.exit_code != 0 && probe.output.contains("nonesuch"), "{probe:?}");
    container.remove_forced().unwrap();
}

#[test]
fn the_end_of_what_a_check_writes_is_kept() {
    let scene = require!(scene("health-output"));
    let line = "seq 100000; echo é; printf '\\377'; exit 3";
    let builder = scene.engine.container("box").command(["sleep", "600"]);
    let container = builder.health_check(check(line)).start().unwrap();
    until("it has answered", || !health(&container).probes.is_empty());
    let probe = health(&container).probes.remove(0);
    assert_eq!(probe.exit_code, 3);
    assert!(probe.output.ends_with("\n99999\n100000\né\n\u{fffd}"), "{}", probe.output);
    assert!((4000..4100).contains(&probe.output.len()), "{}", probe.output.len());
    container.remove_forced().unwrap();
}

#[test]
fn nothing_is_asked_while_it_stands_still() {
    let scene = require!(scene("health-paused"));
    let builder = scene.engine.container("box").command(["sleep", "600"]);
    // Frozen in the middle, some would run out of time.
    let slow = check("sleep 0.05; echo x >> /asked").timeout(Duration::from_millis(500)).retries(1);
    let container = builder.health_check(slow).start().unwrap();
    container.wait_healthy(PATIENCE).unwrap();
    if container.pause().is_err() {
        // It takes a freezer.
        return container.remove_forced().unwrap();
    }
    let before = health(&container);
    let asked = Instant::now();
    while asked.elapsed() < Duration::from_millis(1200) {
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(health(&container), before);
    }
    container.unpause().unwrap();
    until("it is asked again", || health(&container) != before);
    assert_eq!(health(&container).status, HealthStatus::Healthy);
    container.remove_forced().unwrap();
}

#[test]
fn images_say_how_and_containers_say_otherwise() {
    let scene = require!(scene("health-image"));
    let archive = {
        let mut bytes = Vec::new();
        scene.engine.store().image("box").unwrap().export(&mut bytes).unwrap();
        bytes
    };
    let import = |name: &str, instruction: &str| {
        let changes = ConfigChanges::new().instruction(instruction).unwrap();
        Import::new(scene.engine.store()).name(name).changes(changes).read(&archive[..]).unwrap();
    };
    import("asks", "HEALTHCHECK --interval=1s --retries=2 CMD test -e /data/of-the-image");
    let builder = |engine: &Engine| engine.container("asks").command(["sleep", "600"]);
    let container = builder(&scene.engine).start().unwrap();
    container.wait_healthy(PATIENCE).unwrap();
    container.remove_forced().unwrap();
    for builder in [
        builder(&scene.engine).no_health_check(),
        scene.engine.container("box").command(["sleep", "600"]),
    ] {
        let container = builder.create().unwrap();
        assert_eq!(
            (container.status().unwrap().health, container.health_check().unwrap()),
            (None, None)
        );
        container.remove().unwrap();
    }
    let own = builder(&scene.engine).health_check(check("exit 1").retries(1)).start().unwrap();
    until("its own fails", || health(&own).status == HealthStatus::Unhealthy);
    own.remove_forced().unwrap();
    let err = scene.engine.container("box").command(["true"]);
    let err = err.health_check(HealthCheck::command([""; 0])).create().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidInput, "{err:#}");
}

#[test]
fn detached_ones_are_asked_too() {
    let scene = require!(scene("health-detached"));
    let builder = scene.engine.container("box").command(["sleep", "600"]);
    let container = builder.health_check(check("test -e /well").retries(1)).create().unwrap();
    assert!(detach(&scene, container.id().as_str()).status().unwrap().success());
    until("it is ill", || health(&container).status == HealthStatus::Unhealthy);
    run(&container, "touch /well");
    container.wait_healthy(PATIENCE).unwrap();
    container.remove_forced().unwrap();
}

//! Two processes that do everything at once on one store.

use std::path::Path;
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use coracle::image::Store;

use crate::common::victim::{again, say};
use crate::common::{self, require, setup};
use crate::worker::{Worker, check_clean, check_files};

const MARK: &str = "CORACLE_TEST_HAMMER";

fn hammer(dir: &Path, own: &str, seconds: u64) {
    let seed = own.bytes().map(u64::from).sum();
    let mut worker = Worker::new(dir, own, seed, |_| {});
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let mut steps = 0;
    while Instant::now() < deadline {
        worker.step();
        steps += 1;
        for (name, digest) in &worker.names {
            assert_eq!(worker.store.image(name).ok().map(|it| it.digest()), *digest, "{name}");
        }
        if steps % 20 == 0 {
            let verified = worker.store.verify().unwrap();
            assert!(verified.is_sound(), "{:?}", verified.damage);
        }
    }
    for (name, digest) in &worker.names {
        if let Some(digest) = digest {
            say(format!("is {name} {digest}"));
        }
    }
    say(format!("did {steps}"));
}

/// Ends with the process, or, if that never ends by itself, with a panic.
fn wait(mut process: Child, deadline: Instant) -> String {
    while process.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            process.kill().unwrap();
            panic!("it hangs: {:?}", process.wait_with_output().unwrap());
        }
        sleep(Duration::from_millis(20));
    }
    let output = process.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn two_processes_hammer_one_store_and_lose_nothing() {
    let seconds = std::env::var("CORACLE_TEST_SECONDS").map_or(8, |it| it.parse().unwrap());
    if let Some(mark) = std::env::var_os(MARK) {
        let (own, dir) = mark.to_str().unwrap().split_once(' ').unwrap();
        return hammer(Path::new(dir), own, seconds);
    }
    require!(common::stacks());
    let dir = setup("real-hammer");
    let processes = ["one", "two"].map(|own| {
        Worker::prepare(&dir, own);
        let test = "hammer::two_processes_hammer_one_store_and_lose_nothing";
        let mut command = again(test, MARK, &format!("{own} {}", dir.display()));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    });
    // A step takes a moment, whatever else this machine does; a deadlock takes for ever.
    let deadline = Instant::now() + Duration::from_secs(seconds + 300);
    let said = processes.map(|process| wait(process, deadline)).concat();
    let store = Store::open_existing(dir.join("images")).unwrap();
    let mut names = 0;
    for line in said.lines() {
        if let ["@is", name, digest] = line.split(' ').collect::<Vec<_>>()[..] {
            let image = store.image(name).unwrap();
            assert_eq!(image.digest().to_string(), digest, "{name}");
            check_files(&image);
            names += 1;
        } else if let Some(steps) = line.strip_prefix("@did ") {
            println!("{steps} steps");
        }
    }
    assert!(names > 0, "nothing is left to look at: {said}");
    let found: usize = store.images().unwrap().iter().map(|it| it.references().len()).sum();
    assert_eq!(found, names);
    check_clean(&store);
}

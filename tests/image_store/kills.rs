//! Processes that are killed in the middle of a change.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle::image::Store;

use crate::common::{rounds, setup};
use crate::fixture::{config, manifest, name, sound, tidy};

const MARK: &str = "CORACLE_TEST_VICTIM";
const NAMES: u64 = 6;

/// Small steps of a pseudo-random sequence; the seed is told when a test fails.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// This test binary again, in the named test, marked.
pub fn again(test: &str, mark: &str, value: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1", "--nocapture"]).env(mark, value);
    command.stdin(Stdio::null());
    command
}

/// Changes the store until it is killed. Before a change it says what it will do, and after it that it is done.
fn victim(dir: &Path, seed: u64) -> ! {
    let store = Store::open(dir).unwrap();
    let mut random = Random::new(seed);
    let say = |line: String| {
        // One write, so that no line is cut.
        let mut out = std::io::stdout().lock();
        out.write_all(format!("\n@{line}\n").as_bytes()).unwrap();
        out.flush().unwrap();
    };
    say("ready".to_owned());
    loop {
        let app = format!("app:{}", random.below(NAMES));
        match random.below(10) {
            0..=4 => {
                let top = format!("{seed} {}", random.below(u64::MAX)).repeat(100);
                let layers = ["base", &top];
                say(format!("will set {app}"));
                let work = store.work().unwrap();
                let descriptor = manifest(&work, &layers, &config(&layers, ""));
                say(format!("may be {app} {}", descriptor.digest()));
                work.set_image(Some(&name(&app)), &descriptor).unwrap();
                say(format!("is {app} {}", descriptor.digest()));
            }
            5 | 6 => {
                let Ok(from) = store.image(&app) else { continue };
                let to = format!("app:{}", random.below(NAMES));
                say(format!("may be {to} {}", from.digest()));
                store.tag(&app, &to).unwrap();
                say(format!("is {to} {}", from.digest()));
            }
            7 | 8 => {
                say(format!("may be {app} nothing"));
                let removed = store.remove(&app);
                assert!(removed.is_ok() || store.image(&app).is_err());
                say(format!("is {app} nothing"));
            }
            _ => {
                store.collect_garbage().unwrap();
            }
        }
    }
}

/// What each name must mean: one of these.
type Expected = BTreeMap<String, Vec<String>>;

/// Reads what the victim says, kills it a moment after so many lines, and reads on to its end.
fn follow(victim: &mut Child, expected: &mut Expected, after: u64, delay: Duration) -> u64 {
    let mut lines = BufReader::new(victim.stdout.take().unwrap()).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "@ready"), "the victim did not begin");
    let mut changes = 0;
    thread::scope(|scope| {
        let mut victim = Some(&mut *victim);
        for (number, line) in (1..).zip(std::iter::once("begun".to_owned()).chain(lines)) {
            if number > after
                && let Some(victim) = victim.take()
            {
                scope.spawn(move || {
                    thread::sleep(delay);
                    victim.kill().unwrap();
                });
            }
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["@may", "be", name, what] => {
                    let old = expected.entry(name.to_owned());
                    old.or_insert_with(|| vec!["nothing".to_owned()]).push(what.to_owned());
                }
                ["@is", name, what] => {
                    changes += 1;
                    expected.insert(name.to_owned(), vec![what.to_owned()]);
                }
                _ => {}
            }
        }
    });
    let status = victim.wait().unwrap();
    let killed = std::os::unix::process::ExitStatusExt::signal(&status);
    assert_eq!(killed, Some(libc::SIGKILL), "the victim failed by itself: {status}");
    changes
}

#[test]
fn a_store_is_whole_after_every_kill_and_loses_nothing_that_was_done() {
    if let Some(dir) = std::env::var_os(MARK) {
        let seed = std::env::var("CORACLE_TEST_SEED").unwrap().parse().unwrap();
        victim(Path::new(&dir), seed);
    }
    let dir = setup("image-kills");
    let path = dir.join("images");
    let kills = std::env::var("CORACLE_TEST_KILLS").map_or(rounds(100), |it| it.parse().unwrap());
    let seed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos().into();
    let mut random = Random::new(seed);
    let mut expected = Expected::new();
    let mut changes = 0;
    for kill in 0..kills {
        let test = "kills::a_store_is_whole_after_every_kill_and_loses_nothing_that_was_done";
        let mut victim = again(test, MARK, path.to_str().unwrap());
        let mine = random.below(u64::MAX);
        victim.env("CORACLE_TEST_SEED", mine.to_string()).stdout(Stdio::piped());
        let mut victim = victim.spawn().unwrap();
        let (after, delay) = (random.below(12), Duration::from_micros(random.below(4000)));
        changes += follow(&mut victim, &mut expected, after, delay);

        let place = || format!("kill {kill} of seed {seed}");
        let store = Store::open_existing(&path).unwrap();
        for (name, possible) in &mut expected {
            let found =
                store.image(name).map_or("nothing".to_owned(), |it| it.digest().to_string());
            assert!(possible.contains(&found), "{}: {name} is {found}, not {possible:?}", place());
            *possible = vec![found];
        }
        let verified = store.verify().unwrap();
        assert!(verified.is_sound(), "{}: {:?}", place(), verified.damage);
        if random.below(2) == 0 {
            store.collect_garbage().unwrap();
            sound(&store);
            tidy(&store);
            let names = expected.values().filter(|it| it[0] != "nothing").count();
            let found: usize = store.images().unwrap().iter().map(|it| it.references().len()).sum();
            assert_eq!(found, names, "{}", place());
        }
    }
    assert!(2 * changes > kills as u64, "only {changes} changes were made in {kills} rounds");
}

#[test]
fn a_store_that_was_being_made_when_its_maker_was_killed_is_made_by_the_next() {
    const MARK: &str = "CORACLE_TEST_MAKER";
    if let Some(dir) = std::env::var_os(MARK) {
        println!("\n@ready");
        for number in 0.. {
            Store::open(Path::new(&dir).join(number.to_string())).unwrap();
        }
    }
    let mut random = Random::new(7);
    for round in 0..rounds(40) {
        let dir = setup("image-makers");
        let test =
            "kills::a_store_that_was_being_made_when_its_maker_was_killed_is_made_by_the_next";
        let mut maker = again(test, MARK, dir.to_str().unwrap());
        let mut maker = maker.stdout(Stdio::piped()).spawn().unwrap();
        let delay = Duration::from_micros(random.below(6000));
        follow(&mut maker, &mut Expected::new(), 0, delay);
        for entry in std::fs::read_dir(&*dir).unwrap() {
            let store = Store::open(entry.unwrap().path()).unwrap();
            crate::fixture::add(&store, "app", &[&round.to_string()]);
            store.collect_garbage().unwrap();
            sound(&store);
            tidy(&store);
        }
    }
}

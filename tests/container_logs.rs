//! Logs of containers: what is written is read, over rotations, crashes and full disks.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use coracle::container::logs::{Batch, Format, Line, LogWriter, Logs, Rotation, Stream};
use coracle::{ErrorKind, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use common::engines::{Docker, run};
use common::{Missing, require, rounds, setup, setup_in_memory, user_namespaces};

const FORMATS: [Format; 2] = [Format::Cri, Format::JsonFile];

/// Seconds after the beginning of 2026.
fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds)
}

fn read(logs: Logs) -> Vec<Line> {
    logs.lines().unwrap().collect::<Result<_>>().unwrap()
}

fn texts(logs: Logs) -> Vec<String> {
    read(logs).iter().map(Line::to_string).collect()
}

/// What a stream has printed, put together again.
fn printed(lines: &[Line], stream: Stream) -> Vec<u8> {
    let mut all = Vec::new();
    for line in lines.iter().filter(|line| line.stream == stream) {
        all.extend_from_slice(&line.bytes);
        if !line.partial {
            all.push(b'\n');
        }
    }
    all
}

/// `count` lines, one each second, in files of `per_file` lines.
fn numbered(dir: &Path, format: Format, count: u64, per_file: u64) {
    let mut batch = Batch::new();
    let mut writer = LogWriter::open(dir, format, Rotation::new()).unwrap();
    for number in 0..count {
        if number > 0 && number % per_file == 0 {
            drop(writer);
            shift(dir);
            writer = LogWriter::open(dir, format, Rotation::new()).unwrap();
        }
        let stream = if number % 3 == 0 { Stream::Stderr } else { Stream::Stdout };
        writer.write(&mut batch, stream, at(number), format!("{number}\n").as_bytes()).unwrap();
    }
}

/// Rotates as another program would.
fn shift(dir: &Path) {
    let name = |age| match age {
        0 => dir.join("container.log"),
        age => dir.join(format!("container.log.{age}")),
    };
    let free = (0..).find(|age| !name(*age).exists()).unwrap();
    (0..free).rev().for_each(|age| fs::rename(name(age), name(age + 1)).unwrap());
}

struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

#[test]
fn whatever_is_written_in_whatever_chunks_is_read_again() {
    for round in 0..rounds(25) {
        let mut random = Random(round as u64);
        let dir = setup("logs-model");
        let format = FORMATS[random.below(2)];
        let rotation = match random.below(3) {
            0 => Rotation::new(),
            _ => Rotation::new().max_size(1 + random.below(100_000) as u64),
        };
        let mut batch = Batch::new();
        let mut writer = LogWriter::open(&*dir, format, rotation).unwrap();
        let mut wrote = [Vec::new(), Vec::new()];
        for step in 0..50 {
            let mut chunk = Vec::new();
            for _ in 0..random.below(4) {
                let length = [0, 1, 5, 200, 16_383, 16_384, 16_385, 40_000][random.below(8)];
                // In JSON only what is text comes back.
                let odd = if format == Format::Cri { b"\0\xff\r\t\x1b" } else { b"\0\"\r\t\x1b" };
                chunk.extend((0..length).map(|_| match random.below(20) {
                    special @ 0..5 => odd[special],
                    letter => b'a' + u8::try_from(letter).unwrap(),
                }));
                if random.below(3) > 0 {
                    chunk.push(b'\n');
                }
            }
            let stream = [Stream::Stdout, Stream::Stderr][random.below(2)];
            writer.write(&mut batch, stream, at(step), &chunk).unwrap();
            wrote[stream as usize].extend_from_slice(&chunk);
            match random.below(20) {
                0 => writer.flush(&mut batch, at(step)).unwrap(),
                1 => {
                    drop(writer);
                    writer = LogWriter::open(&*dir, format, rotation).unwrap();
                }
                _ => {}
            }
        }
        drop(writer);
        let lines = read(Logs::open(&*dir));
        assert!(lines.iter().all(|line| line.bytes.len() <= 16 << 10));
        for stream in [Stream::Stdout, Stream::Stderr] {
            let same = printed(&lines, stream) == wrote[stream as usize];
            assert!(same, "round {round}, {stream} as {format:?} with {rotation:?}");
        }
    }
}

#[test]
fn long_lines_are_cut_at_characters_and_do_not_depend_on_chunks() {
    let text = format!("{}\n", "ä€😀".repeat(5_000));
    let mut files = Vec::new();
    for chunk_size in [1 << 20, 1000, 7] {
        let dir = setup("logs-pieces");
        let mut batch = Batch::new();
        let mut writer = LogWriter::open(&*dir, Format::JsonFile, Rotation::new()).unwrap();
        for chunk in text.as_bytes().chunks(chunk_size) {
            writer.write(&mut batch, Stream::Stdout, at(0), chunk).unwrap();
        }
        let lines = read(Logs::open(&*dir));
        assert_eq!(printed(&lines, Stream::Stdout), text.as_bytes());
        assert!(lines.len() == 3 && lines[0].partial && lines[1].partial && !lines[2].partial);
        files.push(fs::read(dir.join("container.log")).unwrap());
    }
    assert!(files.iter().all(|file| *file == files[0]));
}

#[test]
fn files_are_rotated_by_size_and_the_oldest_removed() {
    for format in FORMATS {
        let dir = setup("logs-rotation");
        let rotation = Rotation::new().max_size(1000).max_files(3);
        let mut batch = Batch::new();
        let mut writer = LogWriter::open(&*dir, format, rotation).unwrap();
        // In one chunk and in many.
        let many: String = (0..100).map(|number| format!("{number}\n")).collect();
        writer.write(&mut batch, Stream::Stdout, at(0), many.as_bytes()).unwrap();
        for number in 100..200 {
            writer
                .write(&mut batch, Stream::Stdout, at(0), format!("{number}\n").as_bytes())
                .unwrap();
        }
        let mut names: Vec<_> =
            fs::read_dir(&*dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["container.log", "container.log.1", "container.log.2"]);
        for name in &names {
            assert!(fs::metadata(dir.join(name)).unwrap().len() <= 1000);
        }
        let kept = texts(Logs::open(&*dir));
        let expected: Vec<_> = (200 - kept.len()..200).map(|number| number.to_string()).collect();
        assert!(kept.len() > 30 && kept == expected, "{kept:?}");
    }
}

#[test]
fn a_single_file_is_replaced_by_a_new_one() {
    let dir = setup("logs-single");
    let rotation = Rotation::new().max_size(100).max_files(1);
    let mut writer = LogWriter::open(&*dir, Format::Cri, rotation).unwrap();
    writer.write(&mut Batch::new(), Stream::Stdout, at(0), b"1\n2\n3\n4\n5\n").unwrap();
    assert_eq!(texts(Logs::open(&*dir)), ["5"]);
    assert_eq!(fs::read_dir(&*dir).unwrap().count(), 1);
}

#[test]
fn large_files_that_go_are_let_go_of() {
    for kept in [1, 2] {
        let dir = setup("logs-large");
        let rotation = Rotation::new().max_size(8 << 20).max_files(kept);
        let mut batch = Batch::new();
        let mut writer = LogWriter::open(&*dir, Format::Cri, rotation).unwrap();
        let chunk = format!("{}\n", "x".repeat(99)).repeat(10_000);
        for _ in 0..40 {
            writer.write(&mut batch, Stream::Stdout, at(0), chunk.as_bytes()).unwrap();
        }
        writer.write(&mut batch, Stream::Stdout, at(0), b"last\n").unwrap();
        assert_eq!(fs::read_dir(&*dir).unwrap().count(), kept as usize);
        assert_eq!(texts(Logs::open(&*dir).tail(1)), ["last"]);
        drop(writer);
        let dir = dir.canonicalize().unwrap();
        let is_open = || {
            let mut open = fs::read_dir("/proc/self/fd").unwrap().flatten();
            open.any(|it| fs::read_link(it.path()).is_ok_and(|it| it.starts_with(&dir)))
        };
        let begin = Instant::now();
        while is_open() {
            assert!(begin.elapsed() < Duration::from_secs(60), "a file stays open");
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// Lines of a writer that rotates all the time, and what a follower sees, that stays so close behind.
fn beside_a_writer(format: Format, rotation: Rotation, closeness: usize) {
    const LINES: usize = 20_000;
    let dir = setup_in_memory("logs-follow");
    let seen = Arc::new(AtomicUsize::new(0));
    let finished = Arc::new(AtomicBool::new(false));
    let lines = Logs::open(&*dir)
        .follow()
        .until_finished({
            let finished = Arc::clone(&finished);
            move || finished.load(Ordering::SeqCst)
        })
        .lines()
        .unwrap();
    let mut writer = LogWriter::open(&*dir, format, rotation).unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut batch = Batch::new();
            let mut random = Random(1);
            let mut number = 0;
            while number < LINES {
                let mut chunk = String::new();
                for _ in 0..random.below(30) {
                    chunk += &format!("{number}\n");
                    number += 1;
                }
                // Chunks end anywhere.
                let (first, second) = chunk.split_at(random.below(chunk.len() + 1));
                for part in [first, second] {
                    writer
                        .write(&mut batch, Stream::Stdout, SystemTime::now(), part.as_bytes())
                        .unwrap();
                }
                while seen.load(Ordering::SeqCst) + closeness < number {
                    thread::yield_now();
                }
            }
            finished.store(true, Ordering::SeqCst);
        });
        let mut expected = 0;
        for line in lines {
            assert_eq!(line.unwrap().to_string(), expected.to_string());
            expected += 1;
            seen.store(expected, Ordering::SeqCst);
        }
        assert!(expected >= LINES, "{expected}");
    });
}

#[test]
fn a_follower_sees_every_line_once_over_rotations() {
    for format in FORMATS {
        beside_a_writer(format, Rotation::new().max_size(10_000), usize::MAX / 2);
        // Files hold 100 lines: the follower is in the third at the latest.
        beside_a_writer(format, Rotation::new().max_size(10_000).max_files(4), 200);
    }
}

#[test]
fn a_follower_that_is_too_slow_is_told_so_and_goes_on() {
    for (max_files, lost) in [(2, true), (3, false)] {
        let dir = setup("logs-slow");
        let rotation = Rotation::new().max_size(100).max_files(max_files);
        let mut batch = Batch::new();
        let mut writer = LogWriter::open(&*dir, Format::Cri, rotation).unwrap();
        let mut write = |text: &str| {
            writer.write(&mut batch, Stream::Stdout, at(0), text.as_bytes()).unwrap();
        };
        write("0\n");
        let mut lines = Logs::open(&*dir).follow().lines().unwrap();
        assert_eq!(lines.try_next().unwrap().unwrap().to_string(), "0");
        assert_eq!(lines.try_next().unwrap(), None);
        // Two a file: 0 1, 2 3, 4 5, 6.
        (1..7).for_each(|number| write(&format!("{number}\n")));
        let mut seen = Vec::new();
        loop {
            match lines.try_next() {
                Ok(None) => break,
                Ok(Some(line)) => seen.push(line.to_string()),
                Err(err) => {
                    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
                    seen.push(err.to_string().split(": ").last().unwrap().to_owned());
                }
            }
        }
        let told = if max_files == 2 {
            &["1", "1 files were removed before they were read", "4", "5", "6"][..]
        } else {
            &["1", "2", "3", "4", "5", "6"][..]
        };
        assert_eq!(
            (seen, told.len() == 5),
            (told.iter().map(|text| (*text).to_owned()).collect(), lost)
        );
    }
}

#[test]
fn a_follower_in_an_event_loop_is_woken() {
    let dir = setup("logs-poll");
    let mut lines = Logs::open(&*dir).follow().lines().unwrap();
    let readable = |lines: &coracle::container::logs::Lines, timeout: u16| {
        let mut fds = [PollFd::new(lines.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, PollTimeout::from(timeout)).unwrap() == 1
    };
    assert_eq!(lines.try_next().unwrap(), None);
    assert!(!readable(&lines, 0));
    let mut batch = Batch::new();
    let mut writer = LogWriter::open(&*dir, Format::Cri, Rotation::new().max_size(60)).unwrap();
    for number in 0..5 {
        writer.write(&mut batch, Stream::Stdout, at(0), format!("{number}\n").as_bytes()).unwrap();
        assert!(readable(&lines, 10_000));
        assert_eq!(lines.try_next().unwrap().unwrap().to_string(), number.to_string());
        assert_eq!(lines.try_next().unwrap(), None);
        assert!(!readable(&lines, 0));
    }
    assert_eq!(lines.next_timeout(Duration::from_millis(10)).unwrap(), None);
    assert!(!lines.is_finished());
    // What is not ended yet is seen once it is flushed; and the directory may go away.
    writer.write(&mut batch, Stream::Stdout, at(0), b"prompt> ").unwrap();
    assert_eq!(lines.try_next().unwrap(), None);
    writer.flush(&mut batch, at(0)).unwrap();
    let prompt = lines.try_next().unwrap().unwrap();
    assert!(prompt.partial && prompt.to_string() == "prompt> ");
    // Its end is in a file that nobody has opened yet.
    writer.write(&mut batch, Stream::Stdout, at(0), b"\nlast\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap().to_string(), "");
    drop(writer);
    let mut writer = LogWriter::open(&*dir, Format::Cri, Rotation::new()).unwrap();
    writer.write(&mut batch, Stream::Stdout, at(0), b"very last\n").unwrap();
    fs::remove_dir_all(&*dir).unwrap();
    assert_eq!(lines.next().unwrap().unwrap().to_string(), "last");
    assert_eq!(lines.next().unwrap().unwrap_err().kind(), ErrorKind::ResourceExhausted);
    assert!(lines.next().is_none() && lines.is_finished());

    let dir = setup("logs-once");
    let mut once = Logs::open(&*dir).lines().unwrap();
    assert!(readable(&once, 0));
    assert_eq!(once.try_next().unwrap(), None);
    assert!(once.is_finished());
}

#[test]
fn following_ends_with_its_time() {
    let dir = setup("logs-until");
    let until = SystemTime::now() + Duration::from_millis(100);
    let mut writer = LogWriter::open(&*dir, Format::Cri, Rotation::new()).unwrap();
    writer.write(&mut Batch::new(), Stream::Stdout, SystemTime::now(), b"early\n").unwrap();
    writer
        .write(&mut Batch::new(), Stream::Stdout, until + Duration::from_secs(1), b"late\n")
        .unwrap();
    assert_eq!(texts(Logs::open(&*dir).follow().until(until)), ["early"]);
    assert!(SystemTime::now() >= until);
}

#[test]
fn the_last_lines_are_found_over_files() {
    for format in FORMATS {
        let dir = setup("logs-tail");
        numbered(&dir, format, 100, 7);
        for count in [0, 1, 2, 3, 6, 7, 8, 50, 99, 100, 1000] {
            let expected: Vec<_> =
                (100 - count.min(100)..100).map(|number| number.to_string()).collect();
            assert_eq!(texts(Logs::open(&*dir).tail(count)), expected, "{count}");
        }
        // Of those that the other conditions let through.
        assert_eq!(texts(Logs::open(&*dir).tail(2).stderr_only()), ["96", "99"]);
        assert_eq!(texts(Logs::open(&*dir).tail(2).stdout_only().until(at(50))), ["49", "50"]);
        assert_eq!(texts(Logs::open(&*dir).tail(5).since(at(98))), ["98", "99"]);
        // And those that come.
        let mut lines = Logs::open(&*dir).tail(1).follow().lines().unwrap();
        assert_eq!(lines.try_next().unwrap().unwrap().to_string(), "99");
        let mut writer = LogWriter::open(&*dir, format, Rotation::new()).unwrap();
        writer.write(&mut Batch::new(), Stream::Stdout, at(200), b"more\n").unwrap();
        assert_eq!(lines.next().unwrap().unwrap().to_string(), "more");
    }
}

#[test]
fn the_last_line_is_whole_with_its_pieces() {
    let dir = setup("logs-tail-pieces");
    let mut writer = LogWriter::open(&*dir, Format::Cri, Rotation::new()).unwrap();
    let long = "x".repeat(200_000);
    let text = format!("first\n{long}\nsecond\n{long}");
    writer.write(&mut Batch::new(), Stream::Stdout, at(0), text.as_bytes()).unwrap();
    drop(writer);
    let tail = |count| printed(&read(Logs::open(&*dir).tail(count)), Stream::Stdout);
    assert_eq!(tail(1), long.as_bytes());
    assert_eq!(tail(2), format!("second\n{long}").as_bytes());
    assert!(tail(3) == format!("{long}\nsecond\n{long}").as_bytes());
    assert!(tail(4) == text.as_bytes());
}

#[test]
fn times_are_searched_for_and_not_believed_to_be_in_order() {
    let dir = setup_in_memory("logs-since");
    let rotation = Rotation::new().max_size(300_000);
    let mut batch = Batch::new();
    let mut writer = LogWriter::open(&*dir, Format::Cri, rotation).unwrap();
    // Small steps back, and large ones.
    let mut now = 100_000;
    let mut random = Random(3);
    let mut all = Vec::new();
    for number in 0..10_000 {
        match random.below(3000) {
            0 => now -= 50_000,
            1..100 => now -= random.below(55) as u64,
            _ => now += random.below(20) as u64,
        }
        writer
            .write(&mut batch, Stream::Stdout, at(now), format!("{number:0100}\n").as_bytes())
            .unwrap();
        all.push((now, format!("{number:0100}")));
    }
    assert!(dir.join("container.log.3").exists());
    for _ in 0..rounds(30) {
        let since = all[random.below(all.len())].0 + random.below(3) as u64 - 1;
        let until = since + random.below(1000) as u64;
        let expected = |wanted: &dyn Fn(u64) -> bool| -> Vec<String> {
            all.iter().filter(|(time, _)| wanted(*time)).map(|(_, text)| text.clone()).collect()
        };
        assert!(texts(Logs::open(&*dir).since(at(since))) == expected(&|time| time >= since));
        let range = texts(Logs::open(&*dir).since(at(since)).until(at(until)));
        assert!(range == expected(&|time| (since..=until).contains(&time)));
    }
    assert!(texts(Logs::open(&*dir).since(at(10_000_000))).is_empty());
    assert!(texts(Logs::open(&*dir).until(at(0))).is_empty());
}

#[test]
fn formats_may_change() {
    let dir = setup("logs-formats");
    for (number, format) in
        [Format::Cri, Format::JsonFile, Format::JsonFile, Format::Cri].into_iter().enumerate()
    {
        let mut writer = LogWriter::open(&*dir, format, Rotation::new()).unwrap();
        writer
            .write(
                &mut Batch::new(),
                Stream::Stdout,
                SystemTime::now(),
                format!("{number}\n").as_bytes(),
            )
            .unwrap();
    }
    assert_eq!(texts(Logs::open(&*dir)), ["0", "1", "2", "3"]);
    assert_eq!(texts(Logs::open(&*dir).tail(3)), ["1", "2", "3"]);
    assert!(fs::read(dir.join("container.log.1")).unwrap().starts_with(b"{"));
    assert!(dir.join("container.log.2").exists() && !dir.join("container.log.3").exists());
}

#[test]
fn a_line_torn_by_a_crash_costs_no_other() {
    for format in FORMATS {
        let dir = setup("logs-torn");
        numbered(&dir, format, 3, 100);
        let path = dir.join("container.log");
        let length = fs::metadata(&path).unwrap().len();
        OpenOptions::new().write(true).open(&path).unwrap().set_len(length - 5).unwrap();
        assert_eq!(texts(Logs::open(&*dir)), ["0", "1"]);
        assert_eq!(texts(Logs::open(&*dir).tail(1)), ["1"]);
        let mut writer = LogWriter::open(&*dir, format, Rotation::new()).unwrap();
        writer.write(&mut Batch::new(), Stream::Stdout, at(9), b"next\n").unwrap();
        let mut lines = Logs::open(&*dir).lines().unwrap();
        let seen: Vec<_> = lines.by_ref().map(|line| line.unwrap().to_string()).collect();
        assert_eq!((seen, lines.damaged()), (vec!["0".into(), "1".into(), "next".into()], 1));
    }
}

#[test]
fn a_file_that_is_emptied_is_followed_from_its_beginning() {
    let dir = setup("logs-emptied");
    numbered(&dir, Format::Cri, 3, 100);
    let mut lines = Logs::open(&*dir).follow().lines().unwrap();
    (0..3).for_each(|_| drop(lines.next().unwrap().unwrap()));
    OpenOptions::new().write(true).open(dir.join("container.log")).unwrap().set_len(0).unwrap();
    assert_eq!(lines.try_next().unwrap(), None);
    let mut writer = LogWriter::open(&*dir, Format::Cri, Rotation::new()).unwrap();
    writer.write(&mut Batch::new(), Stream::Stdout, at(9), b"next\n").unwrap();
    assert_eq!(lines.next().unwrap().unwrap().to_string(), "next");
}

#[test]
fn hostile_files_are_borne() {
    let dir = setup("logs-hostile");
    let good = "2026-01-01T00:00:00Z stdout F good\n";
    let mut file = good.as_bytes().to_vec();
    for bad in [
        &b"\n"[..],
        b"\0\0\0\0\n",
        b"2026-99-01T00:00:00Z stdout F x\n",
        b"{\"log\":\"x\n",
        b"{}\n",
        b"\xff\xfe\n",
    ] {
        file.extend_from_slice(bad);
    }
    // Longer than any line is, alone and before a good one that it swallows.
    file.extend_from_slice(&vec![b'x'; 3 << 20]);
    file.push(b'\n');
    file.extend_from_slice(good.as_bytes());
    file.extend_from_slice(&vec![0; 3 << 20]);
    file.extend_from_slice(good.as_bytes());
    file.extend_from_slice(good.as_bytes());
    fs::write(dir.join("container.log"), &file).unwrap();
    for name in
        ["container.log.01", "container.log.x", "container.log.99999999999", "container.logx"]
    {
        fs::write(dir.join(name), good).unwrap();
    }
    let mut lines = Logs::open(&*dir).lines().unwrap();
    let seen: Vec<_> = lines.by_ref().map(|line| line.unwrap().to_string()).collect();
    assert_eq!((seen, lines.damaged()), (vec!["good".to_owned(); 3], 8));
    assert_eq!(texts(Logs::open(&*dir).tail(2)).len(), 2);
    assert_eq!(texts(Logs::open(&*dir).tail(9)).len(), 3);
    assert_eq!(texts(Logs::open(&*dir).since(at(0))).len(), 3);
    assert_eq!(texts(Logs::open(&*dir).since(at(1))).len(), 0);
}

#[test]
fn it_is_made_with_its_first_line() {
    let dir = setup("logs-late");
    let parent = dir.join("container");
    let log = parent.join("log");
    for format in FORMATS {
        let mut batch = Batch::new();
        let mut writer = LogWriter::open(&log, format, Rotation::new()).unwrap();
        writer.write(&mut batch, Stream::Stdout, at(0), b"no line yet").unwrap();
        assert!(!parent.exists());
        // What has no place is lost, and that is told as soon as there is one.
        let err = writer.write(&mut batch, Stream::Stdout, at(0), b", lost\n").unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        fs::create_dir(&parent).unwrap();
        writer.write(&mut batch, Stream::Stdout, at(0), b"kept\n").unwrap();
        assert_eq!(fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o700);
        let [note, line] = &texts(Logs::open(&log))[..] else { panic!("{format:?}") };
        assert!(note.contains("lines lost here: 1 ("), "{note}");
        assert!(line.contains("kept"), "{line}");
        fs::remove_dir_all(&parent).unwrap();
    }
}

#[test]
fn nothing_but_a_file_is_a_log() {
    let dir = setup("logs-link");
    let secret = dir.file("secret", "2026-01-01T00:00:00Z stdout F secret\n");
    let logs = dir.dir("logs");
    let log = logs.join("container.log");
    let refused = |what: &str, expected: ErrorKind| {
        let written = LogWriter::open(&logs, Format::Cri, Rotation::new()).unwrap_err();
        let read = Logs::open(&logs).lines().unwrap_err();
        let item = Logs::open(&logs).into_iter().next().unwrap().unwrap_err();
        for err in [written, read, item] {
            assert_eq!(err.kind(), expected, "{what}: {err:?}");
            assert!(format!("{err:#}").contains("container.log"), "{what}: {err:?}");
        }
    };
    symlink(&secret, &log).unwrap();
    refused("a link", ErrorKind::SafetyViolation);
    fs::remove_file(&log).unwrap();
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRWXU).unwrap();
    refused("a pipe", ErrorKind::SafetyViolation);
    fs::remove_file(&log).unwrap();
    fs::remove_dir(&logs).unwrap();
    assert_eq!(Logs::open(&logs).lines().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(Logs::open(&logs).follow().lines().unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(fs::read_to_string(secret).unwrap().lines().count(), 1);
}

#[test]
fn a_rotation_goes_on_where_a_crash_has_left_it() {
    let dir = setup("logs-crashed");
    numbered(&dir, Format::Cri, 6, 2);
    // The oldest had been moved, the next not yet; and a new file was made already.
    fs::rename(dir.join("container.log.2"), dir.join("container.log.3")).unwrap();
    fs::rename(dir.join("container.log.1"), dir.join("container.log.2")).unwrap();
    fs::write(dir.join("container.log.new"), "").unwrap();
    assert_eq!(texts(Logs::open(&*dir)), ["0", "1", "2", "3", "4", "5"]);
    let rotation = Rotation::new().max_size(90).max_files(5);
    let mut writer = LogWriter::open(&*dir, Format::Cri, rotation).unwrap();
    writer.write(&mut Batch::new(), Stream::Stdout, at(6), b"6\n7\n8\n").unwrap();
    assert_eq!(texts(Logs::open(&*dir)), ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
    assert_eq!(fs::read_dir(&*dir).unwrap().count(), 5);
}

fn on_a_full_disk(disk: &Path) {
    for format in FORMATS {
        let dir = disk.join(format!("{format:?}"));
        fs::create_dir(&dir).unwrap();
        let mut batch = Batch::new();
        let mut writer = LogWriter::open(&dir, format, Rotation::new()).unwrap();
        let line = |number: usize| format!("{number:01000}\n");
        let mut write =
            |number| writer.write(&mut batch, Stream::Stdout, at(0), line(number).as_bytes());
        let filler = disk.join("filler");
        let mut file = fs::File::create(&filler).unwrap();
        while file.write(&[0; 4096]).is_ok_and(|count| count > 0) {}
        let first_lost = (0..).find(|number| write(*number).is_err()).unwrap();
        let err = write(first_lost + 1).unwrap_err();
        assert_eq!(
            (err.kind(), err.raw_os_error()),
            (ErrorKind::ResourceExhausted, Some(libc_enospc()))
        );
        drop(file);
        fs::remove_file(&filler).unwrap();
        write(first_lost + 2).unwrap();
        write(first_lost + 3).unwrap();

        let mut lines = Logs::open(&dir).lines().unwrap();
        let all: Vec<_> = lines.by_ref().map(Result::unwrap).collect();
        assert_eq!(lines.damaged(), 0);
        let (notes, lines): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|line| line.stream == Stream::Stderr);
        let numbers: Vec<usize> = lines.iter().map(|line| line.text().parse().unwrap()).collect();
        // The one that was torn is completed later.
        let lost = (0..first_lost + 4).filter(|number| !numbers.contains(number)).count();
        assert!(numbers.is_sorted() && (1..=2).contains(&lost), "{lost} of {numbers:?}");
        let [note] = &notes[..] else { panic!("{notes:?}") };
        assert!(note.text().starts_with(&format!("coracle: lines lost here: {lost} (")), "{note}");
        assert!(note.text().contains("No space left on device"), "{note}");
        fs::remove_dir_all(&dir).unwrap();
    }
}

fn libc_enospc() -> i32 {
    nix::errno::Errno::ENOSPC as i32
}

#[test]
fn a_full_disk_loses_lines_and_says_so() {
    with_a_disk("256k", on_a_full_disk);
}

#[test]
fn a_large_file_makes_room_for_the_next() {
    with_a_disk("17m", |disk| {
        let rotation = Rotation::new().max_size(8 << 20).max_files(2);
        let mut batch = Batch::new();
        let mut writer = LogWriter::open(disk, Format::Cri, rotation).unwrap();
        let chunk = format!("{}\n", "x".repeat(9_999)).repeat(100);
        for _ in 0..200 {
            writer.write(&mut batch, Stream::Stdout, at(0), chunk.as_bytes()).unwrap();
        }
    });
}

/// Does something on a file system of that size, in a process of its own.
fn with_a_disk(size: &str, task: impl FnOnce(&Path)) {
    const MARK: &str = "CORACLE_TEST_SMALL_DISK";
    if let Some(disk) = std::env::var_os(MARK) {
        return task(Path::new(&disk));
    }
    require!(user_namespaces());
    let dir = setup("logs-full");
    // The mount is gone with its namespace.
    let mut command = Command::new("unshare");
    command
        .args(["--map-root-user", "--mount", "sh", "-euc"])
        .arg(format!(r#"mount -t tmpfs -o size={size} none "$0"; exec "$@""#))
        .arg(&*dir)
        .env(MARK, &*dir);
    common::rerun(command);
}

#[test]
fn docker_writes_the_same_file_and_its_is_read() {
    require!(busybox());
    let dir = setup("logs-docker");
    let docker = require!(Docker::start(&dir, "vfs"));
    // Whatever is written otherwise in JSON, what is not UTF-8, and a line in pieces; the last does not end.
    let long = format!("{}\n", "0123456789".repeat(4_000));
    let lines: [&[u8]; 9] = [
        b"plain\n",
        b"\n",
        b"quotes \"'\\ markup <&> controls \t\r\x08\x0c\x1b[1m\x7f\0\n",
        "wide \u{e4} \u{20ac} \u{1f600} \u{2028}\u{2029}\u{2027}\u{fffd}\n".as_bytes(),
        b"bytes \xff \xc3 \xe2\x82 \xf0\x9f\x98 \xc0\x80 \xed\xa0\x80 \x80\xbf\n",
        b"  spaces  \n",
        long.as_bytes(),
        b"after it\r\n",
        b"prompt> ",
    ];
    let root = dir.dir("root/bin");
    fs::copy("/bin/busybox", root.join("busybox")).unwrap();
    fs::write(dir.join("root/printed"), lines.concat()).unwrap();
    let archive = dir.join("root.tar");
    run(Command::new("tar").arg("-cf").arg(&archive).arg("-C").arg(dir.join("root")).arg("."));
    docker.run(&["import", archive.to_str().unwrap(), "printer"]);
    let cat = ["/bin/busybox", "cat", "/printed"];
    let run = [&["run", "--name", "printer", "--network", "none", "printer"], &cat[..]].concat();
    // What it prints is no text, and not looked at.
    assert!(docker.command(&run).output().unwrap().status.success());
    let log = docker.run(&["inspect", "--format", "{{.LogPath}}", "printer"]);
    let theirs = fs::read(log.trim()).unwrap();

    let logs = dir.dir("theirs");
    fs::write(logs.join("container.log"), &theirs).unwrap();
    let mut read = Logs::open(&logs).lines().unwrap();
    let seen: Vec<_> = read.by_ref().map(Result::unwrap).collect();
    assert_eq!(read.damaged(), 0);
    assert_eq!(seen.iter().map(|line| line.partial).filter(|partial| *partial).count(), 3);
    assert!(printed(&seen, Stream::Stdout).ends_with(&lines[5..].concat()));

    // The same bytes at the same times.
    let logs = dir.dir("ours");
    let mut writer = LogWriter::open(&logs, Format::JsonFile, Rotation::new()).unwrap();
    let mut batch = Batch::new();
    let mut times = seen.iter().filter(|line| !line.partial).map(|line| line.time);
    for line in lines {
        let time = times.next().unwrap_or(seen.last().unwrap().time);
        writer.write(&mut batch, Stream::Stdout, time, line).unwrap();
        if !line.ends_with(b"\n") {
            writer.flush(&mut batch, time).unwrap();
        }
    }
    let ours = fs::read(logs.join("container.log")).unwrap();
    let (ours, theirs) = (String::from_utf8(ours).unwrap(), String::from_utf8(theirs).unwrap());
    for (ours, theirs) in ours.lines().zip(theirs.lines()) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
}

fn busybox() -> std::result::Result<(), Missing> {
    match Path::new("/bin/busybox").exists() {
        true => Ok(()),
        false => Err(Missing::new("busybox", "/bin/busybox is not installed")),
    }
}

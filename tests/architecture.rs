//! The plan of the house, checked: rooms import only what lies below them, `unsafe` lives in one room
//! and explains itself there, and no file grows out of hand.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

/// Each room and the rooms it may import. `sys`, `error` and the crate's own constants are open to all.
const ROOMS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("sys", &[]),
    ("cgroups", &[]),
    ("namespaces", &["cgroups"]),
    ("layers", &["cgroups", "namespaces"]),
    ("network", &["cgroups", "namespaces"]),
    ("image", &["cgroups", "namespaces", "layers"]),
    ("registry", &["cgroups", "namespaces", "layers", "image"]),
    ("build", &["cgroups", "namespaces", "layers", "network", "image"]),
    ("container", &["cgroups", "namespaces", "layers", "network", "image", "registry", "build"]),
    ("oci", &["cgroups", "namespaces"]),
    // Not part of the library: compiled for tests and fuzz/ only.
    ("fuzzing", &["cgroups", "namespaces", "image", "registry", "container"]),
    (
        "engine",
        &["cgroups", "namespaces", "layers", "network", "image", "registry", "build", "container"],
    ),
];

/// No file is longer than this many lines.
const LONGEST: usize = 800;

struct Source {
    path: PathBuf,
    room: String,
    text: String,
}

fn sources() -> Vec<Source> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), found);
            } else if entry.path().extension().is_some_and(|ext| ext == "rs") {
                found.push(entry.path());
            }
        }
    }
    let top = common::source_tree().join("src");
    let mut paths = Vec::new();
    walk(&top, &mut paths);
    assert!(paths.len() > 5, "found only {paths:?}");
    let read = |path: PathBuf| {
        let room = path.strip_prefix(&top).unwrap().components().next().unwrap();
        let room = room.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned();
        let text = fs::read_to_string(&path).unwrap();
        Source { path, room, text }
    };
    paths.into_iter().map(read).collect()
}

/// The rooms a source names as `crate::ROOM` outside of comments, with the line number.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        for rest in code.split("crate::").skip(1) {
            let names = match rest.strip_prefix('{') {
                // `use crate::{a::B, c}`; a list that goes on over several lines is not written here.
                Some(list) => list.split(',').collect(),
                None => vec![rest],
            };
            for name in names {
                let name: String =
                    name.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                found.push((number + 1, name));
            }
        }
    }
    found
}

#[test]
fn no_room_imports_one_above_it() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|source| source.room != "lib") {
        let Some((_, below)) = ROOMS.iter().find(|(room, _)| *room == source.room) else {
            wrong.push(format!(
                "{}: the room {} has no place in the plan",
                source.path.display(),
                source.room
            ));
            continue;
        };
        for (line, name) in imports(&source.text) {
            let is_room = ROOMS.iter().any(|(room, _)| *room == name);
            let open = ["sys", "error"].contains(&name.as_str()) && source.room != "error";
            if is_room && name != source.room && !open && !below.contains(&name.as_str()) {
                wrong.push(format!(
                    "{}:{line}: {} imports {name}",
                    source.path.display(),
                    source.room
                ));
            }
        }
        if source.text.contains("use crate::{\n") {
            wrong.push(format!(
                "{}: one `use crate::` line for every room, please",
                source.path.display()
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn imports_are_found_wherever_they_stand() {
    let text = "use crate::sys::raw;\n// crate::engine\nlet a: crate::layers::B = crate::image::c();\nuse crate::{cgroups::Limits, MIB};\n";
    let found: Vec<_> =
        imports(text).into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(found, ["1 sys", "3 layers", "3 image", "4 cgroups", "4 MIB"]);
}

/// The numbers of the lines that hold `unsafe` as code: a block, a function, an impl.
fn unsafe_lines(text: &str) -> Vec<usize> {
    let is_unsafe = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        code.match_indices("unsafe").any(|(at, word)| {
            let after = code[at + word.len()..].trim_start();
            let part_of_a_name = code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
            !part_of_a_name
                && ["{", "fn ", "impl ", "extern ", "trait ", "("]
                    .iter()
                    .any(|next| after.starts_with(next))
        })
    };
    text.lines()
        .enumerate()
        .filter(|(_, line)| is_unsafe(line))
        .map(|(number, _)| number + 1)
        .collect()
}

#[test]
fn unsafe_code_lives_in_sys_and_says_why_it_is_sound() {
    let mut wrong = Vec::new();
    for source in sources() {
        let lines: Vec<_> = source.text.lines().collect();
        for number in unsafe_lines(&source.text) {
            let place = format!("{}:{number}", source.path.display());
            if source.room != "sys" {
                wrong.push(format!("{place}: unsafe outside of sys"));
                continue;
            }
            let line = lines[number - 1];
            if line.contains("unsafe fn") || line.contains("unsafe extern") {
                continue; // Its callers explain; clippy wants its `# Safety` where it is public.
            }
            // The comment stands above the statement, which may have begun some lines before.
            let above = lines[..number - 1].iter().rev().take(12);
            let explained = above
                .take_while(|line| !line.trim().is_empty())
                .any(|line| line.contains("SAFETY:"));
            if !explained && !line.contains("SAFETY:") {
                wrong.push(format!("{place}: no SAFETY comment"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_is_told_from_its_name() {
    let text = "#![allow(unsafe_code)]\n// unsafe {\nlet x = unsafe { f() };\nunsafe impl Send for X {}\nfn unsafe_lines() {}\n#[unsafe(no_mangle)]\n";
    assert_eq!(unsafe_lines(text), [3, 4, 6]);
}

#[test]
fn no_file_is_too_long() {
    let long = |source: &Source| source.text.lines().count() > LONGEST;
    let long: Vec<_> = sources().into_iter().filter(long).map(|source| source.path).collect();
    assert!(long.is_empty(), "over {LONGEST} lines: {long:?}");
}

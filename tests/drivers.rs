//! One suite that every storage driver passes: layers on layers, what a process changes, what becomes of it, and
//! what others leave behind.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command as Program;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use coracle::ErrorKind;
use coracle::layers::{Driver, LayerStore, Pack, Rootfs, Staging, Unpack};
use coracle::namespaces::{Command, Stdio, UserNamespace};
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::geteuid;

use common::stack::{inside, root};
use common::{Sandbox, require, setup, setup_in_memory};

/// Runs `body` with every driver, and for root once more with every driver on a btrfs of its own.
fn each(name: &str, body: impl Fn(&LayerStore, &Path)) {
    each_in(setup, name, body);
}

/// [`each`], for root's first run and others' only in a directory made by `make`.
fn each_in(make: fn(&str) -> Sandbox, name: &str, body: impl Fn(&LayerStore, &Path)) {
    let run = |driver: Driver, dir: &Path| {
        let dir = dir.join(driver.as_str());
        fs::create_dir(&dir).unwrap();
        let store = LayerStore::open_with(dir.join("layers"), driver).unwrap();
        assert_eq!(store.driver(), driver);
        body(&store, &dir);
        assert_eq!(leftovers(&store), [""; 0], "{driver}");
        store.keys().unwrap().iter().for_each(|key| assert!(store.remove(key).unwrap()));
        // Of an image without layers.
        let _ = fs::remove_dir_all(store.path(".empty"));
        fs::remove_dir(store.path("")).unwrap();
    };
    if let Some(dir) = common::btrfs_directory() {
        let drivers = [Driver::Overlay, Driver::Btrfs, Driver::Vfs];
        return drivers.into_iter().for_each(|driver| run(driver, &dir));
    }
    require!(common::stacks());
    require!(common::containers());
    require!(common::program("getfattr"));
    require!(common::program("busybox"));
    let dir = make(name);
    run(Driver::Overlay, &dir);
    run(Driver::Vfs, &dir);
    if geteuid().is_root() {
        require!(common::btrfs());
        common::on_btrfs();
    }
}

/// Directories with names of their own that drivers make.
fn leftovers(store: &LayerStore) -> Vec<String> {
    let names = fs::read_dir(store.path("")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with('.') && name != ".empty").collect()
}

/// A layer that `fill` writes.
fn layer(store: &LayerStore, parents: &[&str], key: &str, fill: impl FnOnce(&Staging)) {
    let staging = store.prepare(parents).unwrap();
    fill(&staging);
    assert!(staging.commit(key).unwrap());
    assert!(store.contains(key));
}

fn file(staging: &Staging, path: &str, content: &str) -> PathBuf {
    let path = staging.tree().join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    // What is there may be another layer's file.
    let _ = fs::remove_file(&path);
    fs::write(&path, content).unwrap();
    path
}

/// What a layer deletes.
fn delete(staging: &Staging, path: &str) {
    let path = staging.tree().join(path);
    if staging.keeps_differences() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let kind = nix::sys::stat::SFlag::S_IFCHR;
        nix::sys::stat::mknod(&path, kind, nix::sys::stat::Mode::empty(), 0).unwrap();
    } else if path.is_dir() {
        fs::remove_dir_all(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Makes a directory that hides what is in it below.
fn replace_directory(staging: &Staging, path: &str) {
    let path = staging.tree().join(path);
    if staging.keeps_differences() {
        fs::create_dir_all(&path).unwrap();
        let prefix = if geteuid().is_root() { "trusted" } else { "user" };
        run("setfattr", &["-n", &format!("{prefix}.overlay.opaque"), "-v", "y"], &path);
    } else {
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }
}

fn run(program: &str, args: &[&str], path: &Path) {
    let output = Program::new(program).args(args).arg(path).output().unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

/// busybox, as /bin/sh and whatever the shell calls.
fn programs(staging: &Staging) {
    let bin = staging.tree().join("bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(common::program("busybox").unwrap(), bin.join("busybox")).unwrap();
    let _ = fs::remove_file(bin.join("sh"));
    symlink("busybox", bin.join("sh")).unwrap();
    for name in ["proc", "dev", "sys"] {
        fs::create_dir_all(staging.tree().join(name)).unwrap();
    }
}

/// Runs a shell script in a container.
fn sh(rootfs: &Rootfs, script: &str) {
    let mut command = Command::new("/bin/sh");
    command.args(["-euc", script]).rootfs(rootfs).stdin(Stdio::null());
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

fn changes(rootfs: &Rootfs) -> Vec<String> {
    rootfs.changes().unwrap().iter().map(ToString::to_string).collect()
}

/// What the layers show, with owners as on disk.
fn view(store: &LayerStore, keys: &[&str]) -> Rootfs {
    let stack = store.stack(keys).unwrap();
    let stack = if geteuid().is_root() { stack.host_ids() } else { stack };
    stack.read_only().unwrap()
}

fn describe(store: &LayerStore, keys: &[&str]) -> BTreeMap<PathBuf, String> {
    common::tree::describe(&root(&view(store, keys)))
}

/// Every type of file, with everything that a file can have.
fn furnish(staging: &Staging) {
    programs(staging);
    for (path, content) in [
        ("etc/passwd", "root:x:0:0::/:/bin/sh\n"),
        ("etc/kept", "kept"),
        ("etc/changed", "before"),
        ("etc/gone", "gone"),
        ("dir/old", "old"),
        ("dir/sub/deep", "deep"),
        ("tree/a/b/c", "c"),
        ("names/first", "several names"),
        ("replaced/inner", "x"),
        ("file-then-dir", "x"),
    ] {
        file(staging, path, content);
    }
    let tree = staging.tree();
    for name in ["names/second", "third"] {
        fs::hard_link(tree.join("names/first"), tree.join(name)).unwrap();
    }
    symlink("/etc/passwd", tree.join("link")).unwrap();
    symlink("../../../../../../../etc/shadow", tree.join("dir/out")).unwrap();
    let mode = nix::sys::stat::Mode::from_bits_truncate(0o640);
    nix::unistd::mkfifo(&tree.join("fifo"), mode).unwrap();
    let sparse = fs::File::create(tree.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 64 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"middle", 8 << 20).unwrap();
    sparse.set_len(65 << 20).unwrap();
    let setuid = file(staging, "bin/setuid", "#!/bin/sh\n");
    if geteuid().is_root() {
        std::os::unix::fs::chown(tree.join("etc/kept"), Some(1000), Some(1001)).unwrap();
        std::os::unix::fs::lchown(tree.join("link"), Some(7), Some(8)).unwrap();
        std::os::unix::fs::chown(tree.join("dir/sub"), Some(1000), Some(50)).unwrap();
        std::os::unix::fs::chown(&setuid, Some(5), Some(6)).unwrap();
        run("setcap", &["cap_net_raw+ep"], &file(staging, "bin/capable", ""));
        run("setfattr", &["-n", "trusted.note", "-v", "t", "-h"], &tree.join("link"));
        let device = nix::sys::stat::SFlag::S_IFBLK;
        nix::sys::stat::mknod(&tree.join("disk"), device, mode, nix::sys::stat::makedev(7, 99))
            .unwrap();
    }
    fs::set_permissions(setuid, Permissions::from_mode(0o6755)).unwrap();
    fs::set_permissions(tree.join("dir/sub"), Permissions::from_mode(0o1775)).unwrap();
    run("setfattr", &["-n", "user.note", "-v", "f"], &tree.join("etc/changed"));
    run("setfattr", &["-n", "user.note", "-v", "d"], &tree.join("dir/sub"));
    run("setfacl", &["-m", "u:1000:r"], &tree.join("etc/changed"));
    run("setfacl", &["-d", "-m", "u:1000:rx"], &tree.join("tree/a"));
    settle(&tree);
}

/// The second layer: hides, replaces, adds.
fn amend(staging: &Staging) {
    delete(staging, "etc/gone");
    delete(staging, "tree/a");
    replace_directory(staging, "dir");
    file(staging, "dir/new", "new");
    file(staging, "etc/changed", "after");
    delete(staging, "file-then-dir");
    if staging.keeps_differences() {
        // In a layer a directory takes the place of a file by itself.
        fs::remove_file(staging.tree().join("file-then-dir")).unwrap();
    }
    file(staging, "file-then-dir/inner", "x");
    let changed = staging.tree().join("replaced");
    if !staging.keeps_differences() {
        fs::remove_dir_all(&changed).unwrap();
    }
    fs::write(&changed, "a file now").unwrap();
    settle(&staging.tree());
    for dir in ["", "etc", "dir", "tree", "file-then-dir"] {
        fs::set_permissions(staging.tree().join(dir), Permissions::from_mode(0o751)).unwrap();
    }
}

/// Gives everything the same times, directories last.
fn settle(dir: &Path) {
    let script = "find \"$1\" -depth -exec touch -h -d @1000000000.123456789 {} +";
    run("sh", &["-c", script, "sh"], dir);
}

#[test]
fn layers_show_the_same_tree_with_every_driver() {
    let seen: Mutex<Vec<BTreeMap<PathBuf, String>>> = Mutex::default();
    each("drivers-tree", |store, _| {
        layer(store, &[], "one", furnish);
        layer(store, &["one"], "two", amend);
        assert_eq!(store.keys().unwrap(), ["one", "two"]);
        let one = describe(store, &["one"]);
        let two = describe(store, &["one", "two"]);
        for (path, there) in [
            ("/etc/gone", false),
            ("/tree/a", false),
            ("/dir/old", false),
            ("/dir/new", true),
            ("/third", true),
            ("/file-then-dir/inner", true),
        ] {
            assert_eq!(two.contains_key(Path::new(path)), there, "{path}");
        }
        assert!(one.contains_key(Path::new("/etc/gone")));
        assert!(one[Path::new("/third")].contains("same as"), "{one:#?}");
        let sparse = root(&view(store, &["one", "two"])).join("sparse");
        assert!(fs::metadata(sparse).map_or(0, |stat| stat.blocks()) * 512 < 1 << 20);
        seen.lock().unwrap().extend([one, two]);
    });
    let seen = seen.into_inner().unwrap();
    for other in seen.chunks(2).skip(1) {
        for (number, (expected, found)) in seen[..2].iter().zip(other).enumerate() {
            for path in expected.keys().chain(found.keys()) {
                assert_eq!(
                    expected.get(path),
                    found.get(path),
                    "{} of layer {number}",
                    path.display()
                );
            }
        }
    }
}

/// Everything but times that the test has not set.
fn settled(tree: BTreeMap<PathBuf, String>) -> BTreeMap<PathBuf, String> {
    let hide = |line: String| {
        let words = line.split(' ').enumerate().map(|(i, word)| {
            let recent = i == 2 && !word.starts_with("1000000000.");
            if recent { "recently" } else { word }
        });
        words.collect::<Vec<_>>().join(" ")
    };
    tree.into_iter().map(|(path, line)| (path, hide(line))).collect()
}

#[test]
fn what_a_process_changes_is_listed_and_becomes_a_layer() {
    const SCRIPT: &str = "
        echo more >> etc/changed; chmod 600 etc/kept; rm etc/passwd
        echo new > etc/new; mkdir -p made/by/me; echo x > made/by/me/x
        rm -r dir; mkdir dir; echo in > dir/in
        rm -r tree; echo file > tree
        rm -r replaced; echo x > replaced
        ln etc/linked again; ln -s nowhere dangling; mkfifo pipe
        mv file-then-dir moved; touch fifo; chmod 700 root
        rm names/second; touch -d @5 etc/touched
        chown 12:13 etc/owned; chmod 4755 etc/owned
    ";
    const EXPECTED: &[&str] = &[
        "A /again",
        "A /dangling",
        "C /dir",
        "A /dir/in",
        "D /dir/old",
        "D /dir/out",
        "D /dir/sub",
        "C /etc",
        "C /etc/changed",
        "C /etc/kept",
        "C /etc/linked",
        "A /etc/new",
        "C /etc/owned",
        "D /etc/passwd",
        "C /etc/touched",
        "C /fifo",
        "D /file-then-dir",
        "A /made",
        "A /made/by",
        "A /made/by/me",
        "A /made/by/me/x",
        "A /moved",
        "A /moved/inner",
        "C /names",
        "D /names/second",
        "A /pipe",
        "C /replaced",
        "C /root",
        "C /tree",
    ];
    let seen: Mutex<Vec<BTreeMap<PathBuf, String>>> = Mutex::default();
    each("drivers-changes", |store, dir| {
        layer(store, &[], "one", furnish);
        layer(store, &["one"], "two", |staging| {
            let bin = staging.tree().join("bin");
            fs::create_dir_all(&bin).unwrap();
            for name in ["chmod", "chown", "ln", "mkdir", "mkfifo", "mv", "rm", "touch"] {
                symlink("busybox", bin.join(name)).unwrap();
            }
            let path = "file-then-dir";
            delete(staging, path);
            let _ = fs::remove_file(staging.tree().join(path));
            file(staging, "file-then-dir/inner", "x");
            for name in ["linked", "owned", "touched"] {
                file(staging, &format!("etc/{name}"), name);
            }
            fs::create_dir(staging.tree().join("root")).unwrap();
        });
        let mut script = SCRIPT.to_owned();
        let mut expected: Vec<_> = EXPECTED.to_vec();
        if common::subordinate_ids().is_err() {
            script = script.replace("chown 12:13 etc/owned;", "");
        }
        if !geteuid().is_root() {
            // On a disk of root's there is no block device either, which changes nothing of this.
            expected.retain(|line| !line.contains("disk"));
        }
        let before = describe(store, &["one", "two"]);
        let rootfs = store.stack(&["one", "two"]).unwrap().writable(dir.join("scratch")).unwrap();
        assert_eq!(changes(&rootfs), [""; 0]);
        sh(&rootfs, &script);
        assert_eq!(changes(&rootfs), expected, "{}", store.driver());
        let captured = store.capture(&rootfs, &["one", "two"]).unwrap();
        assert!(captured.commit("three").unwrap());
        drop(rootfs);
        // The writable directory is there to go on with.
        let stack = store.stack(&["one", "two"]).unwrap();
        assert_eq!(changes(&stack.writable(dir.join("scratch")).unwrap()), expected);
        // The layer does as the changes did, and no other layer has changed.
        let three = describe(store, &["one", "two", "three"]);
        assert!(
            three[Path::new("/again")].contains("same as")
                || three[Path::new("/etc/linked")].contains("same as")
        );
        assert!(!three.contains_key(Path::new("/dir/old")));
        assert_eq!(describe(store, &["one", "two"]), before);
        seen.lock().unwrap().push(settled(three));
        // And a process on it changes that.
        let rootfs = store.stack(&["one", "two", "three"]).unwrap();
        let rootfs = rootfs.writable(dir.join("other")).unwrap();
        sh(&rootfs, "rm dir/in; echo again > made/by/me/x; mkdir made/empty");
        let again = [
            "C /dir",
            "D /dir/in",
            "C /made",
            "C /made/by",
            "C /made/by/me",
            "C /made/by/me/x",
            "A /made/empty",
        ];
        assert_eq!(changes(&rootfs), again);
        drop(rootfs);
        for name in ["scratch", "other"] {
            assert!(store.remove_writable(dir.join(name)).unwrap());
            assert!(!dir.join(name).exists());
        }
    });
    let seen = seen.into_inner().unwrap();
    for pair in seen.windows(2) {
        for path in pair[0].keys().chain(pair[1].keys()) {
            assert_eq!(pair[0].get(path), pair[1].get(path), "{}", path.display());
        }
    }
}

/// Image after image that a layer is added to, past what the kernel stacks.
#[test]
fn layers_in_any_number_run_and_commit() {
    // The last layer up to `i` that makes the directory anew, and whether `i` deletes a file of that.
    let replaced = |i: usize| if i < 39 { 0 } else { (i - 39) / 40 * 40 + 39 };
    let deletes = |i: usize| i.is_multiple_of(3) && i >= replaced(i) + 2;
    each("drivers-deep", |store, dir| {
        let merges = store.driver() == Driver::Overlay;
        let depths: &[usize] = if merges { &[1, 16, 17, 130, 600] } else { &[1, 130, 600] };
        for &depth in depths {
            let keys: Vec<_> = (1..=depth).map(|i| format!("{depth}-{i}")).collect();
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            for (i, key) in keys.iter().enumerate() {
                layer(store, &keys[..i], key, |staging| {
                    file(staging, "top", &i.to_string());
                    if i % 40 == 39 {
                        replace_directory(staging, "etc");
                    }
                    file(staging, &format!("etc/{i}"), "");
                    if deletes(i) {
                        delete(staging, &format!("etc/{}", i - 2));
                    }
                    if i + 1 == depth {
                        programs(staging);
                    }
                });
            }
            let rootfs = store.stack(&keys).unwrap().writable(dir.join("scratch")).unwrap();
            sh(&rootfs, "echo changed > top; echo > mine");
            assert_eq!(changes(&rootfs), ["A /mine", "C /top"]);
            assert!(store.capture(&rootfs, &keys).unwrap().commit("more").unwrap());
            drop(rootfs);
            let last = depth - 1;
            let expected = (replaced(last)..=last)
                .filter(|i| i + 2 > last || !deletes(i + 2))
                .map(|i| i.to_string())
                .collect::<BTreeSet<_>>();
            let keys = [&keys[..], &["more"]].concat();
            let view = view(store, &keys);
            let names = fs::read_dir(root(&view).join("etc")).unwrap();
            let names: BTreeSet<_> =
                names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            assert_eq!(names, expected, "{depth} layers with {}", store.driver());
            assert_eq!(fs::read_to_string(root(&view).join("top")).unwrap(), "changed\n");
            drop(view);
            assert!(store.remove_writable(dir.join("scratch")).unwrap());
            for key in keys {
                assert!(store.remove(key).unwrap());
            }
        }
    });
}

/// Another process that runs the body of the calling test for this store and ends as it likes.
fn other_process(store: &LayerStore, task: &str) -> Program {
    let mut program = Program::new(std::env::current_exe().unwrap());
    program
        .args(["--exact", thread::current().name().unwrap(), "--test-threads=1", "--nocapture"])
        .env(OTHER, format!("{} {} {task}", store.driver(), store.path("..").display()))
        .stdout(std::process::Stdio::piped());
    program
}

const OTHER: &str = "CORACLE_TEST_DRIVERS_OTHER";

/// In the other process: the store and the task.
fn other_task() -> Option<(LayerStore, String)> {
    let text = std::env::var(OTHER).ok()?;
    let [driver, directory, task] = text.splitn(3, ' ').collect::<Vec<_>>().try_into().unwrap();
    let store = LayerStore::open_with(directory, driver.parse().unwrap()).unwrap();
    Some((store, task.to_owned()))
}

#[test]
fn of_many_who_make_the_same_layer_one_is_first() {
    if let Some((store, task)) = other_task() {
        for round in 0..20 {
            let staging = store.prepare(&[]).unwrap();
            for i in 0..20 {
                file(&staging, &format!("{i}"), &task);
            }
            println!("first={}", staging.commit(&format!("round-{round}")).unwrap());
        }
        return;
    }
    each("drivers-first", |store, dir| {
        let processes: Vec<_> =
            (0..4).map(|i| other_process(store, &i.to_string()).spawn().unwrap()).collect();
        let mut firsts = 0;
        for process in processes {
            let output = process.wait_with_output().unwrap();
            assert!(output.status.success());
            firsts += String::from_utf8_lossy(&output.stdout).matches("first=true").count();
        }
        assert_eq!(firsts, 20);
        // Threads, each with a handle of its own or not.
        let winners = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let own = LayerStore::open_with(dir.join("layers"), store.driver()).unwrap();
                    for (store, key) in [(store, "shared"), (&own, "own")] {
                        let staging = store.prepare(&[]).unwrap();
                        file(&staging, "x", "x");
                        winners.fetch_add(staging.commit(key).unwrap().into(), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(winners.into_inner(), 2);
        for round in 0..20 {
            let view = view(store, &[&format!("round-{round}")]);
            let read = |i: i32| fs::read_to_string(root(&view).join(i.to_string())).unwrap();
            let first = read(0);
            (1..20).for_each(|i| assert_eq!(read(i), first, "round {round}"));
        }
    });
}

#[test]
fn what_the_dead_leave_is_collected_and_what_the_living_make_is_not() {
    if let Some((store, task)) = other_task() {
        let staging = store.prepare(&["base"]).unwrap();
        file(&staging, "half", "done");
        if task == "removal" {
            assert!(staging.commit("doomed").unwrap());
            // As one that is killed in the middle of a removal.
            fs::create_dir(store.path(".old-1-1")).unwrap();
            fs::rename(store.path("doomed"), store.path(".old-1-1/content")).unwrap();
        }
        std::process::abort();
    }
    each("drivers-leftovers", |store, _| {
        layer(store, &[], "base", |staging| drop(file(staging, "a", "a")));
        for task in ["staging", "removal"] {
            let limit = "ulimit -c 0; exec \"$@\"";
            let other = other_process(store, task);
            let mut shell = Program::new("sh");
            shell.args(["-c", limit, "sh"]).arg(other.get_program()).args(other.get_args());
            shell.envs(other.get_envs().filter_map(|(name, value)| Some((name, value?))));
            let output = shell.output().unwrap();
            assert!(!output.status.success());
        }
        let living = store.prepare(&["base"]).unwrap();
        assert_eq!(leftovers(store).len(), 3);
        // Of another process.
        let again = LayerStore::open_with(store.path(".."), store.driver()).unwrap();
        assert_eq!(again.collect().unwrap(), 2);
        assert_eq!(leftovers(store).len(), 1);
        assert_eq!(again.collect().unwrap(), 0);
        file(&living, "b", "b");
        assert!(living.commit("living").unwrap());
        assert_eq!(store.keys().unwrap(), ["base", "living"]);
        // One that is dropped leaves nothing.
        drop(store.prepare(&["base"]).unwrap());
    });
}

#[test]
fn layers_are_removed_and_measured() {
    each("drivers-usage", |store, _| {
        let large = "x".repeat(1 << 20);
        layer(store, &[], "one", |staging| {
            let file = file(staging, "large", &large);
            fs::hard_link(file, staging.tree().join("again")).unwrap();
        });
        layer(store, &["one"], "two", |staging| drop(file(staging, "small", "x")));
        let one = store.usage("one", None).unwrap();
        assert!((1 << 20..(1 << 20) + (256 << 10)).contains(&one.bytes), "{one:?}");
        assert_eq!(one.inodes, 2);
        let two = store.usage("two", Some("one")).unwrap();
        if store.driver() == Driver::Vfs {
            assert!(two.bytes >= 1 << 20, "{two:?}");
        } else {
            assert!(two.bytes <= 128 << 10, "{two:?}");
            assert_eq!(two.inodes, 2, "{:?}", store.driver());
        }
        assert!(store.remove("one").unwrap());
        assert!(!store.remove("one").unwrap());
        assert!(!store.contains("one") && store.contains("two"));
        for err in [store.usage("one", None).unwrap_err(), store.stack(&["one"]).unwrap_err()] {
            assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}");
            assert!(format!("{err:#}").contains("one"), "{err:#}");
        }
        // Without privilege and with: no other driver needs the parent.
        if !store.prepare(&[]).unwrap().keeps_differences() {
            assert_eq!(store.prepare(&["one"]).unwrap_err().kind(), ErrorKind::NotFound);
        }
    });
}

#[test]
fn root_filesystems_are_read_only_or_temporary_or_taken() {
    each("drivers-kinds", |store, dir| {
        layer(store, &[], "base", |staging| drop(file(staging, "a", "a")));
        let stack = || store.stack(&["base"]).unwrap();
        let read_only = stack().read_only().unwrap();
        inside(&read_only, |root| {
            let err = fs::write(root.join("b"), "b").unwrap_err();
            assert_eq!(err.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        });
        assert_eq!(changes(&read_only), [""; 0]);
        let err = store.capture(&read_only, &["base"]).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::InvalidInput);
        if store.driver() != Driver::Overlay || common::stacks_in_memory().is_ok() {
            let ephemeral = stack().ephemeral().unwrap();
            inside(&ephemeral, |root| {
                fs::write(root.join("b"), "b").unwrap();
                fs::remove_file(root.join("a")).unwrap();
            });
            assert_eq!(changes(&ephemeral), ["D /a", "A /b"]);
            assert_eq!(store.collect().unwrap(), 0);
        }
        assert_eq!(leftovers(store), [""; 0]);
        let taken = stack().writable(dir.join("scratch")).unwrap();
        assert_eq!(stack().writable(dir.join("scratch")).unwrap_err().kind(), ErrorKind::Busy);
        assert_eq!(store.remove_writable(dir.join("scratch")).unwrap_err().kind(), ErrorKind::Busy);
        drop(taken);
        assert!(store.remove_writable(dir.join("scratch")).unwrap());
        assert!(!store.remove_writable(dir.join("scratch")).unwrap());
        // An image may have no layer.
        let empty = store.stack(&[]).unwrap().writable(dir.join("scratch")).unwrap();
        inside(&empty, |root| fs::write(root.join("b"), "b").unwrap());
        assert_eq!(changes(&empty), ["A /b"]);
        drop(empty);
        assert!(store.remove_writable(dir.join("scratch")).unwrap());
        // Nothing is left of one that cannot be.
        let err = store.stack(&["base"]).unwrap().writable(dir.join("no/where")).unwrap_err();
        assert_eq!(err.kind(), ErrorKind::NotFound);
        assert_eq!(fs::read_to_string(store.path("base").join("tree/a")).unwrap(), "a");
    });
}

/// What a hostile image or container may hold: links out of the tree, many names of a file, and directories deeper
/// than a path is long.
fn fill_with_traps(tree: &Path, outside: &Path, depth: usize) {
    for (name, target) in
        [("out", outside), ("root", Path::new("/")), ("up", Path::new("../../../.."))]
    {
        symlink(target, tree.join(name)).unwrap();
    }
    fs::create_dir(tree.join("names")).unwrap();
    fs::write(tree.join("names/0"), "x").unwrap();
    for i in 1..2000 {
        fs::hard_link(tree.join("names/0"), tree.join(format!("names/{i}"))).unwrap();
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = nix::fcntl::open(tree, flags, Mode::empty()).unwrap();
    for _ in 0..depth {
        mkdirat(&dir, "deeper", Mode::S_IRWXU).unwrap();
        dir = openat(&dir, "deeper", flags, Mode::empty()).unwrap();
    }
    nix::unistd::symlinkat(outside, &dir, "out").unwrap();
    let create = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    drop(openat(&dir, "bottom", create, Mode::S_IRUSR).unwrap());
}

/// The names in the lowest directory, and how many there are above it.
fn bottom(tree: &Path) -> (usize, Vec<String>) {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut dir = nix::fcntl::open(tree, flags, Mode::empty()).unwrap();
    let mut depth = 0;
    while let Ok(next) = openat(&dir, "deeper", flags, Mode::empty()) {
        (dir, depth) = (next, depth + 1);
    }
    let mut names: Vec<_> = nix::dir::Dir::from_fd(dir)
        .unwrap()
        .iter()
        .map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    (depth, names)
}

#[test]
fn hostile_trees_are_copied_merged_measured_and_removed_and_nothing_outside_is_touched() {
    const DEPTH: usize = 10_000;
    // A disk takes a millisecond to remove a directory.
    each_in(setup_in_memory, "drivers-hostile", |store, dir| {
        let outside = dir.join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "outside").unwrap();
        layer(store, &[], "traps", |staging| fill_with_traps(&staging.tree(), &outside, DEPTH));
        let count = if store.driver() == Driver::Overlay { 17 } else { 4 };
        // Enough for a merge of overlay's, on top of which names that are links become directories.
        let keys: Vec<_> =
            (0..count).map(|i| if i == 0 { "traps".into() } else { format!("l{i}") }).collect();
        let keys: Vec<_> = keys.iter().map(String::as_str).collect();
        for i in 1..keys.len() {
            layer(store, &keys[..i], keys[i], |staging| {
                if i == 2 {
                    if !staging.keeps_differences() {
                        fs::remove_file(staging.tree().join("out")).unwrap();
                    }
                    file(staging, "out/file", "inside");
                    delete(staging, "root");
                }
            });
        }
        let rootfs = store.stack(&keys).unwrap().writable(dir.join("scratch")).unwrap();
        let seen = root(&rootfs);
        assert_eq!(bottom(&seen), (DEPTH, vec!["bottom".into(), "out".into()]));
        assert_eq!(fs::read_to_string(seen.join("out/file")).unwrap(), "inside");
        assert!(fs::symlink_metadata(seen.join("root")).is_err());
        let inode = |i: usize| fs::metadata(seen.join(format!("names/{i}"))).unwrap().ino();
        assert_eq!(inode(0), inode(1999));
        inside(&rootfs, |root| {
            fs::create_dir(root.join("mine")).unwrap();
            fill_with_traps(&root.join("mine"), &outside, 2000);
        });
        let listed = changes(&rootfs);
        assert_eq!(listed.len(), 1 + 3 + 1 + 2000 + 2000 + 2, "{:?}", &listed[..5]);
        let captured = store.capture(&rootfs, &keys).unwrap();
        assert!(captured.commit("captured").unwrap());
        drop(rootfs);
        assert_eq!(bottom(&store.path("captured").join("tree/mine")).0, 2000);
        let usage = store.usage("traps", None).unwrap();
        assert_eq!(usage.inodes, u64::try_from(1 + 3 + 1 + 1 + DEPTH + 2).unwrap());
        assert!(store.remove_writable(dir.join("scratch")).unwrap());
        for key in keys.into_iter().chain(["captured"]) {
            assert!(store.remove(key).unwrap());
        }
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    });
}

/// Ids that are not the caller's own, in directories that he may not enter.
#[test]
fn what_belongs_to_other_ids_of_a_container_is_kept_and_removed() {
    require!(common::subordinate_ids());
    each("drivers-ids", |store, dir| {
        layer(store, &[], "base", |staging| {
            programs(staging);
            for name in ["chmod", "chown", "ln", "mkdir"] {
                symlink("busybox", staging.tree().join("bin").join(name)).unwrap();
            }
        });
        let rootfs = store.stack(&["base"]).unwrap().writable(dir.join("scratch")).unwrap();
        sh(
            &rootfs,
            "mkdir -p secret/inner; echo x > secret/inner/x; ln secret/inner/x secret/y
             chown -R 12:13 secret; chmod 600 secret/inner/x; chmod 000 secret/inner; chmod 700 secret",
        );
        let expected = ["A /secret", "A /secret/inner", "A /secret/inner/x", "A /secret/y"];
        assert_eq!(changes(&rootfs), expected);
        assert!(store.capture(&rootfs, &["base"]).unwrap().commit("secret").unwrap());
        drop(rootfs);
        assert!(store.remove_writable(dir.join("scratch")).unwrap());
        let rootfs = store.stack(&["base", "secret"]).unwrap().writable(dir.join("other")).unwrap();
        sh(
            &rootfs,
            "set -- $(busybox stat -c '%a %u:%g' secret secret/inner secret/inner/x secret/y)
             [ \"$*\" = '700 12:13 0 12:13 600 12:13 600 12:13' ] && [ secret/y -ef secret/inner/x ] || { echo \"$*\" >&2; exit 1; }",
        );
        drop(rootfs);
        assert!(store.remove_writable(dir.join("other")).unwrap());
        assert!(store.usage("secret", None).unwrap().inodes >= 4);
    });
}

#[test]
fn an_archive_of_the_changes_makes_the_same_layer_with_every_driver() {
    let archives: Mutex<Vec<Vec<u8>>> = Mutex::default();
    each("drivers-archive", |store, dir| {
        layer(store, &[], "one", |staging| {
            for path in ["etc/gone", "etc/kept", "dir/sub/x", "linked", "was-file", "was-dir/x"] {
                file(staging, path, path);
            }
            settle(&staging.tree());
        });
        let rootfs = store.stack(&["one"]).unwrap().writable(dir.join("scratch")).unwrap();
        inside(&rootfs, |root| {
            fs::remove_file(root.join("etc/gone")).unwrap();
            fs::remove_dir_all(root.join("dir")).unwrap();
            fs::create_dir_all(root.join("new/dir")).unwrap();
            fs::write(root.join("new/dir/file"), "new").unwrap();
            fs::hard_link(root.join("new/dir/file"), root.join("new/again")).unwrap();
            fs::hard_link(root.join("linked"), root.join("linked-too")).unwrap();
            fs::remove_file(root.join("was-file")).unwrap();
            fs::create_dir(root.join("was-file")).unwrap();
            fs::write(root.join("was-file/x"), "x").unwrap();
            fs::remove_dir_all(root.join("was-dir")).unwrap();
            symlink("nowhere", root.join("was-dir")).unwrap();
        });
        let mut archive = Vec::new();
        Pack::new().changes(&rootfs, &mut archive).unwrap();
        let staging = store.prepare(&["one"]).unwrap();
        let lower = staging.lower().unwrap();
        let lower = lower.as_ref().map(|lower| lower.as_fd().try_clone_to_owned().unwrap());
        let namespace = UserNamespace::automatic().unwrap();
        let mut unpack = Unpack::new().overlay(staging.keeps_differences());
        if !geteuid().is_root() {
            unpack = unpack.user_namespace(&namespace);
        }
        if let Some(lower) = &lower {
            unpack = unpack.lower(lower);
        }
        unpack.run(archive.as_slice(), fs::File::open(staging.tree()).unwrap()).unwrap();
        assert!(staging.commit("two").unwrap());
        let two = describe(store, &["one", "two"]);
        assert!(store.capture(&rootfs, &["one"]).unwrap().commit("three").unwrap());
        assert_eq!(two, describe(store, &["one", "three"]));
        assert!(two[Path::new("/linked-too")].contains("same as"), "{two:#?}");
        drop(rootfs);
        assert!(store.remove_writable(dir.join("scratch")).unwrap());
        archives.lock().unwrap().push(archive);
    });
    assert!(archives.into_inner().unwrap().iter().all(|archive| archive.len() > 1000));
}

#[test]
fn merged_layers_are_shared_and_made_anew_after_a_restart() {
    require!(common::stacks());
    let dir = setup("drivers-merged");
    let store = LayerStore::open_with(dir.join("layers"), Driver::Overlay).unwrap();
    let keys: Vec<_> = (0..32).map(|i| format!("k{i}")).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    for (i, key) in keys.iter().enumerate() {
        layer(&store, &keys[..i], key, |staging| drop(file(staging, &format!("f{i}"), key)));
    }
    let merged = || -> Vec<PathBuf> {
        let below = keys.iter().flat_map(|key| fs::read_dir(store.path(key)).unwrap());
        let paths = below.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with("merged-"))
            .collect()
    };
    let count = |keys: &[&str]| fs::read_dir(root(&view(&store, keys))).unwrap().count();
    assert_eq!(count(&keys[..16]), 16);
    assert_eq!(merged(), Vec::<PathBuf>::new());
    // Many at once make it once, and further images go on from there.
    thread::scope(|scope| {
        (0..8).for_each(|_| drop(scope.spawn(|| assert_eq!(count(&keys[..17]), 17))));
    });
    let first = merged();
    assert_eq!(first.len(), 1);
    assert!(first[0].starts_with(store.path("k15")), "{first:?}");
    assert_eq!(
        fs::metadata(first[0].join("f3")).unwrap().ino(),
        fs::metadata(store.path("k3").join("tree/f3")).unwrap().ino()
    );
    let inode = || fs::metadata(&merged()[0]).unwrap().ino();
    let before = inode();
    assert_eq!((count(&keys[..20]), count(&keys[..24]), count(&keys)), (20, 24, 32));
    assert_eq!((merged().len(), inode()), (2, before));
    // Of another boot it may be incomplete.
    for merged in merged() {
        fs::rename(&merged, merged.with_file_name("merged-of-another-boot")).unwrap();
    }
    assert_eq!(count(&keys), 32);
    assert_eq!(merged().len(), 3);
    assert_eq!(store.collect().unwrap(), 2);
    assert_eq!(merged().len(), 1);
    assert_eq!(leftovers(&store), [""; 0]);
    // What is merged does not need what it was made of.
    let deep = store.stack(&keys).unwrap();
    store.remove("k3").unwrap();
    let deep = if geteuid().is_root() { deep.host_ids() } else { deep };
    assert_eq!(fs::read_to_string(root(&deep.read_only().unwrap()).join("f3")).unwrap(), "k3");
}

#[test]
fn the_driver_is_chosen_by_what_can_be_done_or_named_and_refused_with_a_hint() {
    require!(common::stacks());
    let dir = setup("drivers-choice");
    let store = LayerStore::open(dir.join("layers")).unwrap();
    assert_eq!(store.driver(), Driver::Overlay);
    assert_eq!(leftovers(&store), [""; 0]);
    assert_eq!(store.keys().unwrap(), [""; 0]);
    // What was used before is used again.
    LayerStore::open_with(dir.join("other"), Driver::Vfs).unwrap();
    assert_eq!(LayerStore::open(dir.join("other")).unwrap().driver(), Driver::Vfs);
    let err = LayerStore::open_with(dir.join("third"), Driver::Btrfs).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
    assert!(err.hint().unwrap().contains("btrfs"), "{err:?}");
    assert!(!dir.join("third/btrfs").exists());
    assert_eq!(LayerStore::open(dir.join("third")).unwrap().driver(), Driver::Overlay);
    let err = LayerStore::open(dir.join("no/where")).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::NotFound, "{err:?}");
    let err = "zfs".parse::<Driver>().unwrap_err();
    assert!(err.hint().unwrap().contains("overlay, btrfs and vfs"));
}

#[test]
fn keys_that_would_leave_the_directory_are_refused() {
    require!(common::stacks());
    let dir = setup("drivers-keys");
    let store = LayerStore::open_with(dir.join("layers"), Driver::Overlay).unwrap();
    let long = "x".repeat(201);
    for key in ["", ".", "..", "../x", "/etc", "a/b", ".new-1", "a\0b", "a\nb", &long] {
        let errors = [
            store.prepare(&[key]).unwrap_err(),
            store.prepare(&[]).unwrap().commit(key).unwrap_err(),
            store.stack(&[key]).unwrap_err(),
            store.remove(key).unwrap_err(),
            store.usage(key, None).unwrap_err(),
        ];
        for err in errors {
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{key:?}: {err:?}");
        }
        assert!(!store.contains(key), "{key:?}");
    }
    assert_eq!(leftovers(&store), [""; 0]);
}

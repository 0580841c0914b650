//! Stacks of directories: what they show, what they leave behind, what they say about bad input, and the
//! list of changes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;
use std::thread;

use coracle::ErrorKind;
use coracle::layers::Rootfs;
use nix::unistd::geteuid;

use common::stack::{inside, root};
use common::{audit, require, setup};

fn changes(rootfs: &Rootfs) -> Vec<String> {
    rootfs.changes().unwrap().iter().map(ToString::to_string).collect()
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn later_layers_cover_earlier_ones_and_writes_go_to_the_scratch_directory_alone() {
    require!(common::stacks());
    let dir = setup("layers-order");
    dir.file("base/both", "base");
    dir.file("base/etc/one", "1");
    dir.file("app/both", "app");
    dir.file("app/etc/two", "2");
    let layers = ["base", "app"].map(|layer| dir.join(layer));
    let rootfs = Rootfs::stack(&layers).writable(dir.join("scratch")).unwrap();
    inside(&rootfs, |root| {
        assert_eq!(fs::read_to_string(root.join("both")).unwrap(), "app");
        assert_eq!(fs::read_to_string(root.join("etc/one")).unwrap(), "1");
        assert_eq!(fs::read_to_string(root.join("etc/two")).unwrap(), "2");
        fs::write(root.join("both"), "changed").unwrap();
        fs::write(root.join("etc/new"), "new").unwrap();
        fs::remove_file(root.join("etc/one")).unwrap();
    });
    assert_eq!(fs::read_to_string(dir.join("base/both")).unwrap(), "base");
    assert_eq!(fs::read_to_string(dir.join("app/both")).unwrap(), "app");
    assert!(dir.join("base/etc/one").exists() && !dir.join("base/etc/new").exists());
    assert_eq!(changes(&rootfs), ["C /both", "C /etc", "A /etc/new", "D /etc/one"]);
    drop(rootfs);
    // The writable layer is there to go on with.
    let rootfs = Rootfs::stack(&layers).writable(dir.join("scratch")).unwrap();
    assert_eq!(fs::read_to_string(root(&rootfs).join("both")).unwrap(), "changed");
    assert_eq!(changes(&rootfs), ["C /both", "C /etc", "A /etc/new", "D /etc/one"]);
    // And becomes a layer of the next stack as it is.
    drop(rootfs);
    let rootfs = Rootfs::stack(layers.iter().chain([&dir.join("scratch/upper")])).read_only();
    let rootfs = rootfs.unwrap();
    assert_eq!(fs::read_to_string(root(&rootfs).join("both")).unwrap(), "changed");
    assert!(!root(&rootfs).join("etc/one").exists());
}

#[test]
fn files_have_plain_ids_on_disk_and_unprivileged_ones_in_the_stack() {
    require!(common::stacks());
    let dir = setup("layers-ids");
    dir.file("base/file", "x");
    let mine = fs::metadata(dir.join("base/file")).unwrap().uid();
    let rootfs = Rootfs::stack([dir.join("base")]).writable(dir.join("scratch")).unwrap();
    inside(&rootfs, |root| fs::write(root.join("new"), "x").unwrap());
    let seen = fs::metadata(root(&rootfs).join("new")).unwrap().uid();
    assert_eq!(seen, fs::metadata(root(&rootfs).join("file")).unwrap().uid());
    assert_eq!(fs::metadata(dir.join("scratch/upper/new")).unwrap().uid(), mine);
    if geteuid().is_root() {
        assert!(seen >= 1 << 16, "{seen} may be somebody on the host");
        // The host's root is nobody there.
        let refused = fs::write(root(&rootfs).join("host"), "x").unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EOVERFLOW));
    }
}

#[test]
fn with_the_hosts_ids_nothing_is_mapped() {
    require!(common::root());
    require!(common::stacks());
    let dir = setup("layers-host-ids");
    dir.file("base/file", "x");
    let rootfs = Rootfs::stack([dir.join("base")]).host_ids().writable(dir.join("scratch"));
    let rootfs = rootfs.unwrap();
    fs::write(root(&rootfs).join("new"), "x").unwrap();
    for name in ["file", "new"] {
        assert_eq!(fs::metadata(root(&rootfs).join(name)).unwrap().uid(), 0);
    }
}

#[test]
fn a_read_only_stack_cannot_be_written() {
    require!(common::stacks());
    let dir = setup("layers-read-only");
    dir.file("base/file", "x");
    dir.file("app/other", "x");
    for layers in [&["base"][..], &["base", "app"]] {
        let layers = layers.iter().map(|layer| dir.join(layer));
        let rootfs = Rootfs::stack(layers).read_only().unwrap();
        inside(&rootfs, |root| {
            for result in [
                fs::write(root.join("new"), "x"),
                fs::write(root.join("file"), "y"),
                fs::remove_file(root.join("file")),
            ] {
                assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ReadOnlyFilesystem);
            }
        });
        assert_eq!(changes(&rootfs), [""; 0]);
    }
    assert_eq!(fs::read_to_string(dir.join("base/file")).unwrap(), "x");
}

#[test]
fn an_ephemeral_stack_keeps_its_changes_in_memory() {
    require!(common::stacks_in_memory());
    let dir = setup("layers-ephemeral");
    dir.file("base/etc/file", "x");
    let rootfs = Rootfs::stack([dir.join("base")]).ephemeral().unwrap();
    inside(&rootfs, |root| {
        fs::write(root.join("etc/file"), "y").unwrap();
        fs::write(root.join("new"), "x").unwrap();
        fs::remove_dir_all(root.join("etc")).unwrap();
        fs::create_dir(root.join("etc")).unwrap();
    });
    assert_eq!(changes(&rootfs), ["C /etc", "D /etc/file", "A /new"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(dir.join("base/etc/file")).unwrap(), "x");
}

#[test]
fn what_the_kernel_cannot_keep_in_memory_is_refused() {
    require!(common::stacks());
    let dir = setup("layers-no-memory");
    dir.dir("base");
    match (common::stacks_in_memory(), Rootfs::stack([dir.join("base")]).ephemeral()) {
        (Ok(()), made) => drop(made.unwrap()),
        (Err(_), made) => {
            let err = made.unwrap_err();
            assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
            assert!(err.hint().unwrap().contains("6.6"), "{err:?}");
        }
    }
}

/// Of those that `tests/run` hides. The others have fallbacks, and all tests run without them.
#[test]
fn a_system_call_that_is_missing_is_named() {
    require!(common::overlay());
    let dir = setup("layers-missing-call");
    dir.dir("base");
    let calls: &[&str] =
        if geteuid().is_root() { &["fsopen", "open_tree", "mount_setattr"] } else { &["fsopen"] };
    let made = Rootfs::stack([dir.join("base")]).writable(dir.join("scratch"));
    let missing: Vec<_> =
        calls.iter().filter(|call| common::system_calls(&[call]).is_err()).collect();
    if missing.is_empty() {
        return drop(made.unwrap());
    }
    let err = made.unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Unsupported, "{err:?}");
    assert!(err.hint().is_some_and(|hint| hint.contains("Linux 5.")), "{err:?}");
    assert!(missing.iter().any(|call| format!("{err:?}").contains(*call)), "{err:?}");
    assert!(!dir.join("scratch").exists());
}

#[test]
fn nothing_is_left_of_a_stack() {
    common::alone(|| {
        require!(common::stacks_in_memory());
        let dir = setup("layers-leak");
        dir.file("base/file", "x");
        dir.file("app/file", "x");
        let layers = || Rootfs::stack([dir.join("base"), dir.join("app")]);
        let make = || {
            let stacks = [
                layers().writable(dir.join("scratch")).unwrap(),
                layers().read_only().unwrap(),
                layers().ephemeral().unwrap(),
            ];
            for stack in &stacks {
                stack.changes().unwrap();
            }
            stacks
        };
        // What is made once for a process is there after the first time.
        drop(make());
        let (mounts, inherited) = (audit::mounts(), audit::inheritable_fds());
        let before = audit::snapshot();
        let stacks = make();
        assert_eq!(audit::mounts(), mounts, "a stack shows in the host's mount table");
        assert_eq!(audit::inheritable_fds(), inherited);
        drop(stacks);
        Rootfs::stack([dir.join("base"), dir.join("base")]).ephemeral().unwrap_err();
        before.assert_unchanged();
    });
}

#[test]
fn a_stack_that_comes_to_nothing_leaves_no_directory() {
    let dir = setup("layers-undo");
    dir.dir("base");
    for layers in [&["base", "missing"][..], &["base", "base"]] {
        let layers = layers.iter().map(|layer| dir.join(layer));
        Rootfs::stack(layers).writable(dir.join("scratch")).unwrap_err();
        assert!(!dir.join("scratch").exists());
    }
    // What was there stays.
    dir.dir("scratch");
    Rootfs::stack(["/proc"]).writable(dir.join("scratch")).unwrap_err();
    assert_eq!(fs::read_dir(dir.join("scratch")).unwrap().count(), 0);
}

#[test]
fn five_hundred_layers_with_long_names() {
    require!(common::stacks());
    let dir = setup("layers-many");
    let name = |i: usize| format!("{}-{i}", "layer".repeat(40));
    for i in 0..=500 {
        dir.file(format!("{}/{i}", name(i)), "");
        dir.file(format!("{}/top", name(i)), i.to_string());
    }
    let layers = |count: usize| (0..count).map(|i| dir.join(name(i)));
    let rootfs = Rootfs::stack(layers(500)).writable(dir.join("scratch")).unwrap();
    for i in 0..500 {
        assert!(root(&rootfs).join(i.to_string()).exists(), "{i}");
    }
    assert_eq!(fs::read_to_string(root(&rootfs).join("top")).unwrap(), "499");
    inside(&rootfs, |root| fs::remove_file(root.join("250")).unwrap());
    assert_eq!(changes(&rootfs), ["D /250"]);
    let err = Rootfs::stack(layers(501)).read_only().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::ResourceExhausted);
    assert!(format!("{err:#}").contains("501 layers"), "{err:#}");
}

#[test]
fn any_path_will_do() {
    require!(common::stacks());
    let dir = setup("layers-names");
    let names: [&[u8]; 7] =
        [b"a:b", b"a,b", b"a\\b", b"a b", b"a\nb", b"a\xffb", b"lowerdir=x,upperdir=y"];
    for name in names.map(OsStr::from_bytes) {
        let base = dir.dir(name);
        fs::write(base.join("file"), "x").unwrap();
        let scratch = dir.join([name, OsStr::new("-scratch")].join(OsStr::new("")));
        let rootfs = Rootfs::stack([&base]).writable(&scratch).unwrap();
        inside(&rootfs, |root| fs::remove_file(root.join("file")).unwrap());
        assert_eq!(changes(&rootfs), ["D /file"]);
    }
    // A relative path and one through a link, too.
    symlink("a b", dir.join("link")).unwrap();
    let rootfs = Rootfs::stack([dir.join("link/../link")]).read_only().unwrap();
    assert!(root(&rootfs).join("file").exists());
    Rootfs::stack(["src"]).read_only().unwrap();
}

/// Whatever the umask of the host.
#[test]
fn the_directories_of_the_writable_layer_have_safe_modes() {
    common::alone(|| {
        require!(common::stacks_in_memory());
        let dir = setup("layers-modes");
        dir.dir("base");
        let umask = nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o77));
        Rootfs::stack([dir.join("base")]).writable(dir.join("scratch")).unwrap();
        let rootfs = Rootfs::stack([dir.join("base")]).ephemeral().unwrap();
        nix::sys::stat::umask(umask);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&dir.join("scratch")), 0o700);
        assert_eq!(mode(&dir.join("scratch/upper")), 0o755);
        assert_eq!(mode(&dir.join("scratch/work")), 0o700);
        assert_eq!(mode(&root(&rootfs)), 0o755);
    });
}

#[test]
fn bad_input_is_named_and_explained() {
    require!(common::stacks());
    let dir = setup("layers-bad");
    let path = |name: &str| dir.join(name);
    for name in ["base/inner", "scratch/beside", "scratch/upper/inner", "linked"] {
        dir.dir(name);
    }
    let file = dir.file("file", "x");
    symlink("/etc", path("linked/upper")).unwrap();
    let base = path("base");
    let none: [&Path; 0] = [];
    let long = "/x".repeat(35_000);
    use ErrorKind::{InvalidInput, NotFound};
    for (stack, scratch, kind, words) in [
        (Rootfs::stack(none), None, InvalidInput, "at least one layer"),
        (Rootfs::stack([&base, &path("missing")]), None, NotFound, "layers-bad"),
        (Rootfs::stack([&file]), None, InvalidInput, "/file"),
        (Rootfs::stack(["/a\0b"]), None, InvalidInput, "NUL"),
        (Rootfs::stack([""]), None, NotFound, "layer"),
        (Rootfs::stack([&long]), None, InvalidInput, "File name too long"),
        (Rootfs::stack([&base, &base]), None, InvalidInput, "/base is there twice"),
        (Rootfs::stack([&base, &path("base/inner")]), None, InvalidInput, "lies inside the layer"),
        (Rootfs::stack([&path("base/inner"), &base]), None, InvalidInput, "lies inside the layer"),
        (Rootfs::stack(["/proc"]), None, InvalidInput, "/proc"),
        (Rootfs::stack([&base]), Some(file.clone()), InvalidInput, "/file"),
        (Rootfs::stack([&base]), Some("/a\0b".into()), InvalidInput, "NUL"),
        (Rootfs::stack([&base]), Some(path("missing/x")), NotFound, "/missing/x"),
        (Rootfs::stack([&base]), Some(path("linked")), InvalidInput, "open upper"),
        (Rootfs::stack([path("scratch/upper")]), Some(path("scratch")), InvalidInput, "at once"),
        (
            Rootfs::stack([path("scratch/upper/inner")]),
            Some(path("scratch")),
            InvalidInput,
            "lies inside the writable layer",
        ),
    ] {
        let shown = format!("{stack:?} {scratch:?}");
        let result = match scratch {
            Some(scratch) => stack.writable(scratch),
            None => stack.read_only(),
        };
        let err = result.expect_err(&shown);
        let text = format!("{err:?}");
        assert!(err.kind() == kind && text.contains(words), "{shown}: {:?} {text}", err.kind());
        assert!(text.len() < 1000 || shown.len() > 30_000, "{text}");
    }
    // These are no mistakes: the writable directory below a layer, and a layer beside the writable one.
    Rootfs::stack([dir.path()]).writable(path("scratch")).unwrap();
    Rootfs::stack([path("scratch/beside")]).writable(path("scratch")).unwrap();
}

#[test]
fn a_writable_directory_serves_one_stack_at_a_time() {
    require!(common::stacks());
    let dir = setup("layers-busy");
    dir.dir("base");
    let stack = || Rootfs::stack([dir.join("base")]).writable(dir.join("scratch"));
    let first = stack().unwrap();
    let err = stack().unwrap_err();
    assert_eq!(err.kind(), ErrorKind::Busy);
    assert!(err.hint().unwrap().contains("another stack"), "{err:?}");
    drop(first);
    stack().unwrap();
}

#[test]
fn a_volatile_stack_is_followed_by_such_ones_alone() {
    require!(common::stacks());
    let dir = setup("layers-volatile");
    dir.file("base/a", "a");
    let stack = || Rootfs::stack([dir.join("base")]);
    let scratch = dir.join("scratch");
    for turn in ["one", "two"] {
        let rootfs = stack().volatile().writable(&scratch).unwrap();
        inside(&rootfs, |root| {
            assert_eq!(root.join("one").exists(), turn == "two");
            fs::write(root.join(turn), turn).unwrap();
        });
        assert!(changes(&rootfs).contains(&format!("A /{turn}")));
    }
    // As the kernel sees to it.
    assert!(scratch.join("work/work/incompat/volatile").exists());
    let err = stack().writable(&scratch).unwrap_err();
    assert_eq!(err.kind(), ErrorKind::InvalidState, "{err:?}");
    assert!(err.hint().unwrap().contains("volatile"), "{err:?}");
    // Nothing of it keeps its owner from removing it; what came to nothing is gone at once.
    fs::remove_dir_all(&scratch).unwrap();
    let twice = Rootfs::stack([dir.join("base"), dir.join("base")]);
    twice.volatile().writable(&scratch).unwrap_err();
    assert!(!scratch.exists());
}

#[test]
fn a_running_process_keeps_the_writable_directory() {
    require!(common::stacks());
    let debian = require!(common::debian_rootfs());
    let dir = setup("layers-running");
    let stack = || Rootfs::stack([&debian]).writable(dir.join("scratch"));
    let rootfs = stack().unwrap();
    let mut child =
        coracle::namespaces::Command::new("sleep").arg("1000").rootfs(&rootfs).spawn().unwrap();
    drop(rootfs);
    assert_eq!(stack().unwrap_err().kind(), ErrorKind::Busy);
    child.kill().unwrap();
    child.wait().unwrap();
    drop(child);
    stack().unwrap();
}

#[test]
fn an_overlay_cannot_hold_the_changes_of_another() {
    require!(common::root());
    require!(common::stacks());
    let dir = setup("layers-nested");
    dir.file("base/file", "x");
    for name in ["u", "w", "m"] {
        dir.dir(name);
    }
    thread::scope(|scope| {
        scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
            nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let at = |name: &str| dir.join(name).display().to_string();
            let options =
                format!("lowerdir={},upperdir={},workdir={}", at("base"), at("u"), at("w"));
            let flags = nix::mount::MsFlags::empty();
            nix::mount::mount(Some("x"), &dir.join("m"), Some("overlay"), flags, Some(&*options))
                .unwrap();
            fs::create_dir(dir.join("m/inner")).unwrap();
            for stack in [Rootfs::stack(["/usr"]), Rootfs::stack(["/usr"]).host_ids()] {
                let err = stack.writable(dir.join("m/scratch")).unwrap_err();
                assert!(format!("{err:?}").contains("overlay"), "{err:?}");
                assert!(!dir.join("m/scratch").exists());
            }
            // As a layer it serves, where the kernel need not map its ids.
            let rootfs = Rootfs::stack([dir.join("m")]).host_ids().ephemeral().unwrap();
            assert!(root(&rootfs).join("file").exists());
        });
    });
}

#[test]
fn stacks_from_many_threads_do_not_disturb_each_other() {
    require!(common::stacks());
    let dir = setup("layers-threads");
    dir.file("base/file", "x");
    thread::scope(|scope| {
        for i in 0..8 {
            let dir = &dir;
            scope.spawn(move || {
                for _ in 0..if common::emulated() { 2 } else { 5 } {
                    let scratch = dir.join(format!("scratch-{i}"));
                    let rootfs = Rootfs::stack([dir.join("base")]).writable(scratch).unwrap();
                    inside(&rootfs, |root| fs::write(root.join(i.to_string()), "x").unwrap());
                    assert_eq!(changes(&rootfs), [format!("A /{i}")]);
                }
            });
        }
    });
}

#[test]
fn changes_are_told_as_they_are() {
    require!(common::stacks());
    require!(common::program("python3"));
    let dir = setup("layers-changes");
    let base = dir.dir("base");
    for name in
        ["kept/a", "gone/a", "gone/b/c", "file", "mode", "attr", "dir-to-file/a", "touched/a"]
    {
        dir.file(Path::new("base").join(name), name);
    }
    for name in ["replaced/keep", "replaced/lost", "replaced/sub/deep", "owned/x", "dir-attr/x"] {
        dir.file(Path::new("app").join(name), name);
    }
    dir.file("base/file-to-dir", "x");
    symlink("kept", base.join("link")).unwrap();
    fs::hard_link(base.join("file"), base.join("hard")).unwrap();
    let rootfs =
        Rootfs::stack([dir.join("base"), dir.join("app")]).writable(dir.join("scratch")).unwrap();
    assert_eq!(changes(&rootfs), [""; 0], "nothing done");
    inside(&rootfs, |root| {
        let at = |name: &str| root.join(name);
        fs::write(at("new"), "").unwrap();
        fs::create_dir_all(at("fresh/dir")).unwrap();
        fs::write(at("fresh/dir/file"), "").unwrap();
        fs::hard_link(at("new"), at("new-hard")).unwrap();
        symlink("/etc", at("new-link")).unwrap();
        fs::remove_dir_all(at("gone")).unwrap();
        fs::remove_file(at("link")).unwrap();
        fs::set_permissions(at("mode"), Permissions::from_mode(0o600)).unwrap();
        set_attribute(&at("attr"));
        set_attribute(&at("dir-attr"));
        fs::set_permissions(at("owned"), Permissions::from_mode(0o700)).unwrap();
        // A directory that comes back otherwise: what it had before does not shine through.
        fs::remove_dir_all(at("replaced")).unwrap();
        fs::create_dir_all(at("replaced/sub")).unwrap();
        open_to_all(&at("replaced"));
        fs::write(at("replaced/keep"), "").unwrap();
        fs::write(at("replaced/sub/new"), "").unwrap();
        fs::remove_dir_all(at("dir-to-file")).unwrap();
        fs::write(at("dir-to-file"), "").unwrap();
        fs::remove_file(at("file-to-dir")).unwrap();
        fs::create_dir(at("file-to-dir")).unwrap();
        fs::write(at("file-to-dir/x"), "").unwrap();
        // One name of two: the kernel copies it, and the other name stays as it was.
        fs::write(at("hard"), "changed").unwrap();
        // Comes and goes.
        fs::write(at("touched/tmp"), "").unwrap();
        fs::remove_file(at("touched/tmp")).unwrap();
        fs::remove_file(at("new-link")).unwrap();
        // As it was.
        fs::write(at("file"), "other").unwrap();
        fs::remove_file(at("file")).unwrap();
        fs::write(at("file"), "again").unwrap();
    });
    assert_eq!(
        changes(&rootfs),
        [
            "C /attr",
            "C /dir-attr",
            "C /dir-to-file",
            "C /file",
            "C /file-to-dir",
            "A /file-to-dir/x",
            "A /fresh",
            "A /fresh/dir",
            "A /fresh/dir/file",
            "D /gone",
            "C /hard",
            "D /link",
            "C /mode",
            "A /new",
            "A /new-hard",
            "C /owned",
            "C /replaced",
            "C /replaced/keep",
            "D /replaced/lost",
            "C /replaced/sub",
            "D /replaced/sub/deep",
            "A /replaced/sub/new",
        ]
    );
    let typed = rootfs.changes().unwrap();
    assert_eq!(typed[0].path(), Path::new("/attr"));
    assert_eq!(typed[0].kind(), coracle::layers::ChangeKind::Modified);
}

fn set_attribute(path: &Path) {
    // By descriptor: while another thread spawns, this process's /proc is closed to others.
    let file = File::open(path).unwrap();
    let script = "python3 -c \"import os; os.setxattr(3, 'user.note', b'1')\" 3<&0 </dev/null";
    let set = Command::new("sh").args(["-c", script]).stdin(file).status();
    assert!(set.unwrap().success());
}

/// A container writes what it likes into its layer; the host reads it.
#[test]
fn a_hostile_layer_harms_nobody() {
    require!(common::stacks());
    let dir = setup("layers-hostile");
    dir.file("victim/secret", "x");
    dir.file("base/dir/file", "x");
    let rootfs = Rootfs::stack([dir.join("base")]).writable(dir.join("scratch")).unwrap();
    let mut expected = Vec::new();
    inside(&rootfs, |root| {
        symlink(dir.join("victim"), root.join("link")).unwrap();
        symlink("..", root.join("up")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        fs::remove_dir_all(root.join("dir")).unwrap();
        symlink(dir.join("victim"), root.join("dir")).unwrap();
        fs::write(root.join("a\nD "), "").unwrap();
        fs::write(root.join(OsStr::from_bytes(b"\xff\x1b[2J")), "").unwrap();
        fs::write(root.join(".wh.dir"), "").unwrap();
        fs::write(root.join("x".repeat(255)), "").unwrap();
        nix::unistd::mkfifo(&root.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        // Deeper than a path can be, and than descriptors there are.
        let mut here = File::open(root).unwrap();
        for _ in 0..1500 {
            let name = "deep";
            nix::sys::stat::mkdirat(&here, name, nix::sys::stat::Mode::S_IRWXU).unwrap();
            let flags = nix::fcntl::OFlag::O_RDONLY | nix::fcntl::OFlag::O_DIRECTORY;
            let next = nix::fcntl::openat(&here, name, flags, nix::sys::stat::Mode::empty());
            here = next.unwrap().into();
        }
    });
    for _ in 0..1500 {
        expected.push(());
    }
    let all = changes(&rootfs);
    let (deep, rest): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|line| line.starts_with("A /deep"));
    assert_eq!(deep.len(), expected.len());
    assert_eq!(
        rest,
        [
            "A /.wh.dir".to_owned(),
            "A /a\\nD ".to_owned(),
            "C /dir".to_owned(),
            "A /fifo".to_owned(),
            "A /link".to_owned(),
            "A /loop".to_owned(),
            "A /up".to_owned(),
            format!("A /{}", "x".repeat(255)),
            "A /\\xff\\u{1b}[2J".to_owned(),
        ]
    );
    drop(rootfs);
    // Too deep for remove_dir_all.
    let removed = Command::new("rm").arg("-rf").arg(dir.join("scratch")).status();
    assert!(removed.unwrap().success());
    assert_eq!(fs::read_to_string(dir.join("victim/secret")).unwrap(), "x");
}

#[test]
fn a_command_runs_on_a_stack_and_what_it_did_is_told() {
    require!(common::stacks());
    let debian = require!(common::debian_rootfs());
    let dir = setup("layers-command");
    dir.file("app/srv/app", "x");
    let rootfs = Rootfs::stack([debian, dir.join("app")]).writable(dir.join("scratch")).unwrap();
    let run = |script: &str| {
        let output = coracle::namespaces::Command::new("/bin/sh")
            .args(["-euc", script])
            .rootfs(&rootfs)
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(run("cat /srv/app"), "x");
    run("date >/stamp; rm /srv/app");
    assert_eq!(changes(&rootfs), ["C /srv", "D /srv/app", "A /stamp"]);
    // The next process finds it, also one that runs beside another.
    thread::scope(|scope| {
        for i in 0..4 {
            scope.spawn(move || run(&format!("test -s /stamp; echo >/stamp-{i}")));
        }
    });
    assert_eq!(changes(&rootfs).len(), 7);
    assert!(run("cat /proc/self/mountinfo").lines().any(|line| line.contains(" / / rw,nodev")));
}

/// Directories of ids that an ordinary user has only in the user namespace, and may not look into himself.
#[test]
fn changes_are_seen_where_the_caller_may_not_look() {
    require!(common::stacks());
    require!(common::subordinate_ids());
    let debian = require!(common::debian_rootfs());
    let dir = setup("layers-subordinate");
    let stack = || Rootfs::stack([&debian]);
    let mut all = vec![stack().writable(dir.join("scratch")).unwrap()];
    if common::stacks_in_memory().is_ok() {
        all.push(stack().ephemeral().unwrap());
    }
    for rootfs in all {
        let script =
            "mkdir -p /p/q /o; touch /p/x /p/q/y /o/z; chmod 700 /p /p/q; chown -R 33:33 /p";
        let status = coracle::namespaces::Command::new("/bin/sh")
            .args(["-euc", script])
            .rootfs(&rootfs)
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
        assert_eq!(changes(&rootfs), ["A /o", "A /o/z", "A /p", "A /p/q", "A /p/q/y", "A /p/x"]);
    }
}

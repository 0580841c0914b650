//! Debian's package manager, which takes much of what root is for: it gives files away, becomes another user to
//! fetch, and adds users. The image has a mirror, as there is no network.

use std::process::Command;

use crate::common::require;
use crate::{IMAGE, Scene};

#[test]
fn apt_get_updates_and_installs_in_an_interactive_shell() {
    let scene = require!(Scene::new("apt-shell"));
    let tmux = require!(scene.terminal());
    tmux.coracle(&format!("run -it --name apt-shell -e PS1='box> ' {IMAGE} bash --norc"));
    tmux.shows("box>");
    tmux.types("apt-get update && echo updated $((6 * 7))");
    tmux.shows("updated 42");
    let screen = tmux.screen();
    assert!(screen.contains("Reading package lists... Done"), "{screen}");
    assert!(!screen.contains("W:") && !screen.contains("E:"), "{screen}");
    // It shows its progress in a region of the screen of its own, and asks.
    tmux.types("clear; apt install hello memcached; echo status $?");
    tmux.shows("Do you want to continue? [Y/n]");
    tmux.types("");
    tmux.shows("status 0");
    tmux.types("clear; hello; dpkg --audit; echo audited $?");
    tmux.shows("Hello, world!");
    tmux.shows("audited 0");
    tmux.types("exit");
    tmux.shows("host>");
    // What is installed is there for those who go on with it.
    scene.says(&["commit", "apt-shell", "hello:1"]);
    assert_eq!(scene.says(&["run", "--rm", "hello:1", "hello"]), "Hello, world!");
    let user = ["run", "--rm", "-u", "memcache", "hello:1", "id", "-un"];
    assert_eq!(scene.says(&user), "memcache");
    scene.says(&["rmi", "hello:1"]);
}

/// Fetches over HTTP, as user _apt, from a server of the same container, and starts what is installed.
const OVER_HTTP: &str = r#"set -e
    sed -i 's,root /var/www/html,root /srv/debian,' /etc/nginx/sites-enabled/default
    nginx
    sed -i 's,file:/srv/debian,http://127.0.0.1/,' /etc/apt/sources.list
    export DEBIAN_FRONTEND=noninteractive
    for sandbox in false true; do
        rm -rf /var/lib/apt/lists/*
        apt-get -o APT::Sandbox::Seccomp=$sandbox update
    done
    apt-get install -y memcached
    service memcached start
    python3 - <<'END'
import socket, time
end = time.monotonic() + 60
while True:
    try:
        peer = socket.create_connection(("127.0.0.1", 11211))
        break
    except OSError:
        assert time.monotonic() < end
        time.sleep(0.02)
peer.sendall(b"set a 0 0 4\r\nkept\r\nget a\r\nquit\r\n")
print(b"".join(iter(lambda: peer.recv(4096), b"")).decode().split(), flush=True)
END
    ps -o user= -C memcached
    stat -c %U /var/lib/apt/lists/partial
    service memcached stop
    apt-get purge -y memcached
    dpkg --audit
    awk '{ print $1 }' /var/log/nginx/access.log | sort -u
    grep -c 'Packages' /var/log/nginx/access.log"#;

#[test]
fn apt_get_fetches_as_its_own_user_and_services_start() {
    let scene = require!(Scene::new("apt-http"));
    let ran = scene.ran(&["run", "--name", "apt-http", IMAGE, "sh", "-c", OVER_HTTP]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for expected in [
        "Setting up memcached (",
        "['STORED', 'VALUE', 'a', '0', '4', 'kept', 'END']",
        "\nmemcache\n_apt\n",
        "Processing triggers for libc-bin",
        "Removing memcached (",
    ] {
        assert!(ran.out.contains(expected), "{expected}: {ran:?}");
    }
    // It warns if it must fetch as root.
    assert!(!ran.err.contains("W:") && !ran.err.contains("E:"), "{ran:?}");
}

#[test]
fn what_packages_own_keeps_its_plain_ids() {
    let scene = require!(Scene::new("apt-ids"));
    let script = "apt-get update && apt-get install -y memcached hello && id -u memcache
        install -o memcache -g adm -m 4750 /bin/true /srv/program";
    let ran = scene.ran(&["run", "--name", "apt-ids", IMAGE, "sh", "-c", script]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let id = ran.out.lines().last().unwrap();
    let changed = scene.says(&["diff", "apt-ids"]);
    for line in ["A /usr/bin/hello", "A /srv/program", "C /etc/passwd"] {
        assert!(changed.lines().any(|it| it == line), "{line}: {changed}");
    }
    let archive = scene.dir.join("exported.tar");
    scene.says(&["export", "-o", archive.to_str().unwrap(), "apt-ids"]);
    let tar = Command::new("tar").args(["--numeric-owner", "-tvf"]).arg(&archive).output().unwrap();
    let listed = String::from_utf8(tar.stdout).unwrap();
    let owner = |path: &str| {
        let mut lines = listed.lines().filter(|line| line.ends_with(&format!(" {path}")));
        let words: Vec<_> = lines.next().unwrap().split_whitespace().collect();
        format!("{} {}", words[0], words[1])
    };
    assert_eq!(owner("usr/bin/hello"), "-rwxr-xr-x 0/0");
    assert_eq!(owner("srv/program"), format!("-rwsr-x--- {id}/4"));
    assert_eq!(owner("var/lib/apt/lists/partial/"), "drwx------ 42/0");
    assert_eq!(owner("etc/shadow"), "-rw-r----- 0/42");
}

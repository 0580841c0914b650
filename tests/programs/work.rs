//! Programs that work with processes, files and memory.

use crate::common::require;
use crate::{IMAGE, Scene};

#[test]
fn python_does_what_its_library_offers() {
    let scene = require!(Scene::new("python"));
    // A file, as processes that it spawns read it again.
    let script = scene.dir.file("work.py", include_str!("work.py"));
    let script = format!("{}:/work.py:ro", script.display());
    let said = scene.says(&["run", "--rm", "-v", &script, IMAGE, "python3", "/work.py"]);
    assert_eq!(said, "pools\nservers\nfiles\nprograms");
}

#[test]
fn python_makes_an_environment_with_pip() {
    let scene = require!(Scene::new("venv"));
    let script =
        "python3 -m venv /tmp/own && . /tmp/own/bin/activate && pip --version && which python";
    let said = scene.says(&["run", "--rm", "-u", "nobody", IMAGE, "sh", "-c", script]);
    assert!(said.starts_with("pip ") && said.contains("from /tmp/own/lib/"), "{said}");
    assert!(said.ends_with("\n/tmp/own/bin/python"), "{said}");
}

#[test]
fn python_serves_on_a_low_port_as_an_ordinary_user() {
    let scene = require!(Scene::new("web"));
    let server = ["python3", "-m", "http.server", "--directory", "/etc/python3", "80"];
    scene.starts(&["-u", "nobody"], &server);
    let get = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1/').status)";
    scene.until(&["python3", "-c", get]);
    assert_eq!(scene.exec(&[], &["python3", "-c", get]), "200");
}

/// As ping(8) does without capabilities: the kernel puts a number of its own into the echo request.
const PING: &str = "
import socket
ping = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)
ping.settimeout(10)
ping.sendto(bytes([8, 0, 0, 0, 0, 0, 0, 1]) + b'payload', ('127.0.0.1', 0))
answer = ping.recv(100)
print(answer[0], answer[8:].decode())
";

#[test]
fn any_user_of_a_container_may_ping() {
    let scene = require!(Scene::new("ping"));
    for user in ["root", "nobody", "1000:1000", "0:65535", "12345:1"] {
        let options = ["run", "--rm", "-u", user];
        let said = scene.says(&[&options, &[IMAGE, "python3", "-c", PING][..]].concat());
        assert_eq!(said, "0 payload", "{user}");
    }
    let closed = ["run", "--rm", "--sysctl", "net.ipv4.ping_group_range=1 0", IMAGE];
    let refused = scene.ran(&[&closed, &["python3", "-c", PING][..]].concat());
    assert!(refused.status == 1 && refused.err.contains("PermissionError"), "{refused:?}");
}

/// All of its thousand compilers at once.
const BUILD: &str = r#"set -e
    mkdir /build && cd /build
    {
        for n in $(seq 1000); do
            echo "int part_$n(void) { return $n; }" >part_$n.c
            echo "int part_$n(void);" >&3
            echo "sum += part_$n();" >&4
        done
    } 3>parts.h 4>sums.h
    cat >main.c <<'END'
#include <stdio.h>
#include "parts.h"
int main(void) {
    int sum = 0;
    #include "sums.h"
    return printf("%d\n", sum) < 0;
}
END
    cat >Makefile <<'END'
parts := $(patsubst %.c,%.o,$(wildcard *.c))
all: $(parts)
	tcc -o $@ $^
%.o: %.c
	tcc -c -o $@ $<
END
    before=$(awk '/^processes/ { print $2 }' /proc/stat)
    make -s -j
    after=$(awk '/^processes/ { print $2 }' /proc/stat)
    [ $((after - before)) -ge 1000 ]
    ls part_*.o | wc -l
    ./all"#;

#[test]
fn make_builds_with_a_thousand_processes() {
    let scene = require!(Scene::new("build"));
    let said = scene.says(&["run", "--rm", IMAGE, "sh", "-c", BUILD]);
    assert_eq!(said, "1000\n500500");
}

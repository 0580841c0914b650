//! Containers on a real terminal, which tmux plays.

use crate::common::tmux::Tmux;
use crate::common::{Missing, require};
use crate::life::Scene;
use crate::{lines, run};

impl Scene {
    fn terminal(&self) -> Result<Tmux, Missing> {
        Tmux::start(&self.dir, self.store.path())
    }
}

/// The keys leave what shows this prompt, with docker's words, and that is no failure.
fn leaves(tmux: &Tmux, prompt: &str, keys: &[&str]) {
    tmux.run(&[&["send-keys"], keys].concat());
    tmux.shows(&format!("{prompt} read escape sequence"));
    // What is typed before that is read by the one that is about to end.
    tmux.shows("host>");
    tmux.types("echo left with $?");
    tmux.shows("left with 0");
}

#[test]
fn a_shell_in_a_container_has_a_terminal_of_the_windows_size() {
    let scene = require!(Scene::new("cli-tty"));
    let tmux = require!(scene.terminal());
    tmux.coracle("run -it --rm -e PS1='box> ' busybox:1 sh");
    tmux.shows("box>");
    tmux.types("echo $TERM $(stty size) $((40 + 2))");
    tmux.shows("xterm 30 100 42");
    tmux.run(&["resize-window", "-x", "90", "-y", "20"]);
    tmux.types("until stty size | busybox grep 90; do sleep 0.05; done");
    tmux.shows("20 90");
    // Its interrupt, not ours.
    tmux.types("echo begun; sleep 1000");
    tmux.shows("begun");
    tmux.key("C-c");
    tmux.types("echo still $((1 + 1))");
    tmux.shows("still 2");
    tmux.types("exit 5");
    tmux.shows("host>");
    // The terminal of the host is what it was: it echoes, and has line ends.
    tmux.types("echo status $?; stty -a | grep -c ' echo '");
    tmux.shows("status 5");
    tmux.shows("1");
    assert_eq!(lines(&scene.store, &["ps", "-aq"]), [""; 0]);
}

#[test]
fn the_keys_leave_a_container_running_and_attach_comes_back() {
    let scene = require!(Scene::new("cli-detach"));
    let tmux = require!(scene.terminal());
    tmux.coracle("run -it --name work -e PS1='box> ' busybox:1 sh");
    tmux.shows("box>");
    tmux.types("X=kept");
    // A beginning that is none is handed on: the shell's line editor takes the line before.
    tmux.run(&["send-keys", "C-p", "C-u"]);
    leaves(&tmux, "box>", &["C-p", "C-q"]);
    assert_eq!(scene.picked("work", "{{.State.Running}}"), "true");
    tmux.coracle("attach --detach-keys ctrl-x,x work");
    tmux.shows("box>");
    tmux.types("echo X is $X");
    tmux.shows("X is kept");
    leaves(&tmux, "box>", &["C-x", "x"]);
    // Another process on a terminal, beside the first.
    tmux.coracle("exec -it -e PS1='exec> ' work sh");
    tmux.shows("exec>");
    tmux.types("echo $(stty size) $TERM");
    tmux.shows("30 100 xterm");
    tmux.types("exit 3");
    tmux.shows("host>");
    tmux.types("echo exec ended with $?");
    tmux.shows("exec ended with 3");
    tmux.coracle("exec -it -e PS1='exec> ' work sh");
    tmux.shows("exec>");
    leaves(&tmux, "exec>", &["C-p", "C-q"]);
    assert_eq!(run(&scene.store, &["stop", "-t", "0", "work"]).status, 0);
    tmux.coracle("start -ai work");
    tmux.shows("box>");
    leaves(&tmux, "box>", &["C-p", "C-q"]);
    assert_eq!(run(&scene.store, &["rm", "-f", "work"]).status, 0);
}

#[test]
fn a_terminal_is_set_right_when_this_program_is_killed() {
    let scene = require!(Scene::new("cli-tty-killed"));
    let tmux = require!(scene.terminal());
    tmux.coracle("run -it --name work -e PS1='box> ' busybox:1 sh");
    tmux.shows("box>");
    let pane: i32 = tmux.run(&["display-message", "-p", "#{pane_pid}"]).trim().parse().unwrap();
    let path = format!("/proc/{pane}/task/{pane}/children");
    let children = std::fs::read_to_string(path).unwrap();
    let pid = children.split_whitespace().next().unwrap().parse().unwrap();
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    tmux.shows("box> host>");
    tmux.types("clear; echo status $?; stty -a | grep -c ' echo '");
    tmux.shows("1");
    // It has a process of its own that looks after it.
    assert_eq!(scene.picked("work", "{{.State.Running}}"), "true");
}

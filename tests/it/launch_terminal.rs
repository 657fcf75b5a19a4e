//! `launch -t`: a terminal inside that follows the one outside.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::launch::plain;
use crate::support::{Runtime, Sandbox, wait_until};

/// A launch on a terminal of ours, and what it has shown so far.
struct Session {
    child: Child,
    master: File,
    shown: String,
}

impl Session {
    fn start(sandbox: &Sandbox, script: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NOCTTY;
        let slave = rustix::fs::open(name, flags, rustix::fs::Mode::empty()).unwrap();
        resize(&master, 40, 100);
        let mut command = Command::new(Runtime::Ours.program());
        command.arg("--root").arg(sandbox.root()).arg("--store").arg(sandbox.path("store"));
        command.args(["launch", "--rm", "-it", "--name", &sandbox.id("box"), "box", "/bin/sh", "-c", script]);
        let copy = |fd: &OwnedFd| fd.try_clone().unwrap();
        let child = command.stdin(copy(&slave)).stdout(copy(&slave)).stderr(slave).spawn().unwrap();
        rustix::io::ioctl_fionbio(&master, true).unwrap();
        Self { child, master: File::from(master), shown: String::new() }
    }

    /// Waits until this has been shown.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        wait_until(&format!("{text:?} on the terminal"), || {
            let mut buffer = [0; 1024];
            if let Ok(length) = self.master.read(&mut buffer) {
                self.shown.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
            self.shown.contains(text).then_some(())
        });
    }

    fn exit_code(&mut self) -> Option<i32> {
        wait_until("the launch to end", || self.child.try_wait().unwrap()).code()
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
    }
}

fn resize(master: &impl std::os::fd::AsFd, rows: u16, columns: u16) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).unwrap();
}

#[test]
fn the_terminal_has_our_size_and_follows_it() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let script = "test -t 0 && test -t 1 && tty; stty size; trap 'stty size; exit 7' WINCH; echo ready; while :; do sleep 0.02; done";
    let mut session = Session::start(&sandbox, script);
    session.expect("/dev/pts/0\r\n40 100\r\nready\r\n");
    resize(&session.master, 50, 120);
    kill_process(Pid::from_child(&session.child), Signal::WINCH).unwrap();
    session.expect("50 120");
    assert_eq!(session.exit_code(), Some(7));
}

#[test]
fn typed_text_and_typed_signals_reach_the_payload() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let script = "trap 'echo interrupted; exit 9' INT; echo ready; read line; echo \"got $line\"; while :; do sleep 0.02; done";
    let mut session = Session::start(&sandbox, script);
    session.expect("ready");
    session.master.write_all(b"words\r").unwrap();
    session.expect("got words");
    session.master.write_all(b"\x03").unwrap();
    session.expect("interrupted");
    assert_eq!(session.exit_code(), Some(9));
}

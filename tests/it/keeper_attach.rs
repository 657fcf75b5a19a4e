//! Being attached to a container: its input, its terminal, and clients that are too slow.

use std::io::{Read, Write};
use std::process::Stdio;

use coracle::keeper::{Frame, Stream};
use rustix::process::Signal;

use crate::keeper::Kept;
use crate::support::wait_until;

#[test]
fn input_stays_open_until_it_is_closed() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i"], "while read line; do echo got $line; done; echo ended; exit 3");
    let id = kept.sandbox.id("box");
    for word in ["one", "two"] {
        let attached = kept.client().attach(&id, true).unwrap();
        attached.send(&Frame::Input(format!("{word}\n").as_bytes())).unwrap();
        kept.wait_for_log("box", &format!("got {word}"));
    }
    kept.client().close_stdin(&id).unwrap();
    assert_eq!(kept.wait("box"), 3);
    assert_eq!(kept.logs("box"), "got one\ngot two\nended\n");
    assert!(kept.client().attach(&id, true).is_err(), "it is no more");
}

#[test]
fn more_input_than_a_pipe_holds_arrives_whole() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i"], "sleep 0.3; head -c 1000000 | md5sum; exit 0");
    let attached = kept.client().attach(&kept.sandbox.id("box"), true).unwrap();
    let data: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
    for piece in data.chunks(10_000) {
        attached.send(&Frame::Input(piece)).unwrap();
    }
    assert_eq!(kept.wait("box"), 0);
    let file = kept.sandbox.path("data");
    std::fs::write(&file, data).unwrap();
    let sum = crate::support::Run::new("md5sum").arg(&file).go().ok().stdout;
    assert_eq!(kept.logs("box").split(' ').next(), sum.split(' ').next());
}

#[test]
fn more_input_than_a_terminal_holds_arrives_whole() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-it"], "stty raw -echo; echo ready; sleep 0.3; head -c 100000 | md5sum; exit 0");
    kept.wait_for_log("box", "ready");
    let data = vec![b'x'; 100_000];
    let attached = kept.client().attach(&kept.sandbox.id("box"), true).unwrap();
    for piece in data.chunks(10_000) {
        attached.send(&Frame::Input(piece)).unwrap();
    }
    assert_eq!(kept.wait("box"), 0);
    let file = kept.sandbox.path("data");
    std::fs::write(&file, data).unwrap();
    let sum = crate::support::Run::new("md5sum").arg(&file).go().ok().stdout;
    let logs = kept.logs("box");
    assert!(logs.contains(sum.split(' ').next().unwrap()), "{logs}");
}

#[test]
fn input_that_is_closed_with_its_client_arrives_whole_first() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i", "--stdin-once"], "sleep 0.3; cat | wc -c; exit 0");
    let attached = kept.client().attach(&kept.sandbox.id("box"), true).unwrap();
    for _ in 0..100 {
        attached.send(&Frame::Input(&[b'x'; 10_000])).unwrap();
    }
    drop(attached);
    assert_eq!(kept.wait("box"), 0);
    assert_eq!(kept.logs("box").trim(), "1000000");
    kept.launch("ended", &["-i", "--stdin-once"], "cat; exit 3");
    let mut attached = kept.client().attach(&kept.sandbox.id("ended"), true).unwrap();
    attached.send(&Frame::Input(b"all")).unwrap();
    attached.send(&Frame::InputEnd).unwrap();
    assert_eq!(attached.receive().unwrap(), Some(Frame::Output(Stream::Stdout, b"all")));
    assert!(matches!(attached.receive().unwrap(), Some(Frame::Exited(exit)) if exit.code == 3));
}

#[test]
fn a_client_that_does_not_read_slows_nobody_down_and_hears_what_it_missed() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i"], "read x; yes 0123456789 | head -n 500000; exit 9");
    let mut slow = kept.client().attach(&kept.sandbox.id("box"), true).unwrap();
    slow.send(&Frame::Input(b"go\n")).unwrap();
    assert_eq!(kept.wait("box"), 9, "it ended though its client took nothing");
    let (mut seen, mut lost) = (0, 0);
    let code = loop {
        match slow.receive().unwrap() {
            Some(Frame::Output(Stream::Stdout, data)) => seen += data.len() as u64,
            Some(Frame::Lost(bytes)) => lost += bytes,
            Some(Frame::Exited(exit)) => break exit.code,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!((code, seen + lost), (9, 500_000 * 11));
    assert!(lost > 0, "everything fitted into the socket: the test says nothing");
    assert_eq!(kept.logs("box").lines().count(), 500_000);
}

#[test]
fn attach_shows_a_prompt_and_takes_the_exit_code() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i"], "read x; printf 'name: '; read x; echo hello $x; exit 8");
    let mut command = std::process::Command::new(crate::support::Runtime::Ours.program());
    command.arg("--root").arg(kept.sandbox.root()).arg("--run").arg(kept.run_dir());
    command.arg("attach").arg(kept.sandbox.id("box"));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    let mut shown = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"name: ", "though the line has no end yet");
    child.stdin.as_mut().unwrap().write_all(b"you\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"hello you\n"[..], Some(8)));
}

#[test]
fn a_terminal_follows_the_client_and_outlives_the_keeper() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    // A signal ends `read`, too, with nothing read.
    let script = "trap 'echo hung up' HUP; trap 'stty size' WINCH; tty; \
                  while :; do x=; read x; [ \"$x\" = bye ] && exit 2; [ -n \"$x\" ] && echo got $x; done";
    kept.launch("box", &["-it"], script);
    let id = kept.sandbox.id("box");
    kept.wait_for_log("box", "/dev/pts/0");
    let say = |frame: &Frame<'_>| {
        let attached = kept.client().attach(&id, true).unwrap();
        assert!(attached.terms().terminal && attached.terms().stdin);
        attached.send(frame).unwrap();
        attached
    };
    drop(say(&Frame::Resize(33, 77)));
    // Before more is said: what `read` has read when a signal interrupts it is lost to it.
    kept.wait_for_log("box", "33 77");
    drop(say(&Frame::Input(b"first\r")));
    kept.wait_for_log("box", "got first");
    let before = kept.keeper();
    kept.signal_keeper(Signal::HUP);
    wait_until("the keeper after its upgrade", || (kept.keeper() != before).then_some(()));
    drop(say(&Frame::Input(b"second\r")));
    kept.wait_for_log("box", "got second");
    kept.signal_keeper(Signal::KILL);
    wait_until("the standby", || (kept.keeper().0 != before.0).then_some(()));
    drop(say(&Frame::Input(b"third\r")));
    kept.wait_for_log("box", "got third");
    assert!(!kept.logs("box").contains("hung up"), "{}", kept.logs("box"));
    drop(say(&Frame::Input(b"bye\r")));
    assert_eq!(kept.wait("box"), 2);
}

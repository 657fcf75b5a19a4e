//! What a keeper survives: upgrades, kills, and its clients' deaths.

use coracle::keeper::Frame;
use coracle::keeper::client::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::keeper::{Kept, assert_numbers, numbers};
use crate::launch::{background, prepare};
use crate::support::{Run, Runtime, copy_program, keeper_program, kernel_tells_ends, wait_until};

const LINES: u32 = 60_000;

#[test]
fn an_upgrade_loses_no_line_and_no_container() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], &numbers(LINES));
    let (keeper, mut standby) = kept.keeper();
    for _ in 0..5 {
        Client::upgrade(&kept.run_dir()).unwrap();
        standby =
            wait_until("the next image's standby", || Some(kept.keeper().1).filter(|next| *next != standby));
        assert_eq!(kept.keeper().0, keeper, "its pid stays");
    }
    assert_eq!(kept.wait("box"), 5);
    assert_numbers(&kept.logs("box"), LINES);
}

#[test]
fn an_upgrade_takes_the_program_that_lies_there_now_or_goes_on_as_before() {
    use std::os::unix::fs::MetadataExt;
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let program = kept.sandbox.path("coracle-keeper");
    let install = || {
        let new = kept.sandbox.path("new");
        copy_program(keeper_program(), &new);
        std::fs::rename(new, &program).unwrap();
        std::fs::metadata(&program).unwrap().ino()
    };
    let running = |pid: i32| std::fs::metadata(format!("/proc/{pid}/exe")).unwrap().ino();
    let first = install();
    let words = ["-d", "-i", "box", "/bin/sh", "-c", "read x; exit 3"];
    prepare(&kept.sandbox, "box", words).env("CORACLE_KEEPER", &program).go().ok();
    let (keeper, standby) = kept.keeper();
    assert_eq!(running(keeper), first);
    let second = install();
    Run::new(&program).arg("--upgrade").arg("--run").arg(kept.run_dir()).go().ok();
    wait_until("the next image's standby", || (kept.keeper().1 != standby).then_some(()));
    assert_eq!((running(keeper), kept.keeper().0), (second, keeper));
    std::fs::remove_file(&program).unwrap();
    kept.signal_keeper(Signal::HUP);
    wait_until("its complaint", || {
        std::fs::read_to_string(kept.run_dir().join("keeper.log")).ok()?.contains("upgrade: ").then_some(())
    });
    kept.client().close_stdin(&kept.sandbox.id("box")).unwrap();
    assert_eq!(kept.wait("box"), 3);
}

#[test]
fn clients_do_not_notice_an_upgrade() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i"], "printf 'begun '; read x; echo ended $x; exit 6");
    let id = kept.sandbox.id("box");
    let mut attached = kept.client().attach(&id, true).unwrap();
    let waiting = kept.client();
    waiting.subscribe(&id).unwrap();
    let standby = kept.keeper().1;
    kept.signal_keeper(Signal::HUP);
    wait_until("the next image's standby", || (kept.keeper().1 != standby).then_some(()));
    attached.send(&Frame::Input(b"well\n")).unwrap();
    assert_eq!(waiting.receive_exit().unwrap().code, 6);
    let mut shown = Vec::new();
    while let Some(Frame::Output(_, data)) = attached.receive().unwrap() {
        shown.extend_from_slice(data);
    }
    assert!(String::from_utf8_lossy(&shown).ends_with("ended well\n"), "{shown:?}");
    assert_eq!(kept.logs("box"), "begun ended well\n");
}

/// Killed between a line's way to the log and its way out of the FIFO, the keeper's successor logs it again: no line is
/// missing, the order holds, and what is there twice is at most what one look takes.
#[track_caller]
fn assert_nothing_is_lost(text: &str, count: u32, kills: usize) {
    let mut next = 0;
    let mut again = 0;
    for line in text.lines() {
        let number: u32 = line.strip_prefix("line ").unwrap().parse().unwrap();
        assert!(number <= next, "line {next} is missing before {number}");
        if number < next {
            again += 1;
        }
        next = next.max(number + 1);
    }
    assert_eq!(next, count);
    assert!(again <= kills * 4096, "{again} lines twice");
}

#[test]
fn a_killed_keeper_has_a_standby_who_goes_on_at_once() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], &numbers(LINES));
    kept.launch("cat", &["-i"], "cat; exit 2");
    for _ in 0..5 {
        let (keeper, standby) = kept.keeper();
        kept.signal_keeper(Signal::KILL);
        let next = wait_until("another keeper", || Some(kept.keeper().0).filter(|next| *next != keeper));
        assert_eq!(next, standby, "after {keeper}");
    }
    let known = |code| if kernel_tells_ends() { code } else { 255 };
    let ended = kept.wait("box");
    assert!(
        [5, known(5)].contains(&ended),
        "{ended}: no SIGPIPE, and known though it is nobody's child here"
    );
    assert_nothing_is_lost(&kept.logs("box"), LINES, 5);
    // Its input did not end when its writer was killed.
    let id = kept.sandbox.id("cat");
    assert_eq!(kept.sandbox.status("cat").as_deref(), Some("running"));
    let attached = kept.client().attach(&id, true).unwrap();
    attached.send(&Frame::Input(b"still here\n")).unwrap();
    kept.wait_for_log("cat", "still here");
    kept.client().close_stdin(&id).unwrap();
    let ended = kept.wait("cat");
    assert!([2, known(2)].contains(&ended), "{ended}");
}

#[test]
fn an_end_that_no_keeper_saw_is_known_to_the_standby() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["--rm"], "while :; do sleep 0.02; done");
    kept.launch("kept", &[], "while :; do sleep 0.02; done");
    let (keeper, _) = kept.keeper();
    let pids: Vec<i32> = kept.client().list().unwrap().into_iter().map(|(_, pid)| pid).collect();
    let signal = |pid, signal| kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    // Stopped, it sees nothing; it is killed before it can look.
    signal(keeper, Signal::STOP);
    pids.iter().for_each(|pid| signal(*pid, Signal::KILL));
    signal(keeper, Signal::KILL);
    assert_eq!(kept.wait("kept"), 137);
    wait_until("the other to be removed", || kept.sandbox.status("box").is_none().then_some(()));
}

#[test]
fn without_a_standby_the_next_keeper_adopts_what_lives() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], &numbers(LINES));
    kept.launch("dead", &[], "while :; do sleep 0.02; done");
    let (keeper, standby) = kept.keeper();
    let dead = kept.sandbox.state("dead")["pid"].as_i64().unwrap();
    for pid in [standby, keeper, i32::try_from(dead).unwrap()] {
        // The keeper cannot make another standby: it is stopped first.
        if pid == standby {
            kill_process(Pid::from_raw(keeper).unwrap(), Signal::STOP).unwrap();
        }
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    wait_for_death(&[keeper, standby]);
    assert_eq!(kept.sandbox.status("box").as_deref(), Some("running"), "it waits for somebody to read");
    kept.launch("other", &["--rm"], "exit 0");
    assert_eq!(kept.wait("box"), 5);
    assert_nothing_is_lost(&kept.logs("box"), LINES, 1);
    // Nobody held its pidfd: how it ended is known only where its new parent was slow to reap it.
    let (code, state) = (kept.wait("dead"), kept.sandbox.state("dead"));
    assert!(code == 137 || (code == 255 && state["exitUnknown"] == true), "{code}: {state}");
}

#[track_caller]
fn wait_for_death(pids: &[i32]) {
    wait_until("all to be gone", || {
        let is_gone = |pid: &i32| !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
        pids.iter().all(is_gone).then_some(())
    });
}

#[test]
fn verbs_that_need_the_keeper_of_a_container_start_one() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], "trap 'exit 7' TERM; echo ready; while :; do sleep 0.02; done");
    kept.wait_for_log("box", "ready");
    let (keeper, standby) = kept.keeper();
    kill_process(Pid::from_raw(keeper).unwrap(), Signal::STOP).unwrap();
    for pid in [standby, keeper] {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    wait_for_death(&[keeper, standby]);
    let id = kept.sandbox.id("box");
    // For a container that no keeper had, none is started.
    kept.sandbox.coracle(["wait", "no-such-name"]).fails();
    assert!(Client::connect(&kept.run_dir()).is_err());
    kept.sandbox.coracle(["stop", &id]).ok();
    assert!(Client::connect(&kept.run_dir()).is_ok());
    let code = kept.wait("box");
    assert!(code == 7 || (code == 255 && !kernel_tells_ends()), "{code}");
}

#[test]
fn a_keeper_that_cannot_start_is_named_with_its_reason() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    for (program, reason) in
        [("/bin/false", "it gave no reason: exit status: 1"), ("/no/such", "No such file")]
    {
        let launch = prepare(&kept.sandbox, "box", ["--detach", "box", "/bin/true"]);
        let output = launch.env("CORACLE_KEEPER", program).go().exits(125);
        assert!(output.stderr.contains(program) && output.stderr.contains(reason), "{output}");
    }
}

/// The next keeper finds the record of a container that was removed while no keeper lived, and whose name has another now.
#[test]
fn what_a_keeper_does_for_an_ended_container_spares_the_next_one_of_that_name() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["--rm"], "sleep 1000");
    kept.launch("also", &[], "sleep 1000");
    let (keeper, standby) = kept.keeper();
    kill_process(Pid::from_raw(keeper).unwrap(), Signal::STOP).unwrap();
    for pid in [standby, keeper] {
        kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    }
    wait_for_death(&[keeper, standby]);
    let ids = [kept.sandbox.id("box"), kept.sandbox.id("also")];
    kept.sandbox.coracle(["rm", "--force", &ids[0], "no-such-name", &ids[1]]).fails();
    // The new ones have no keeper, so nothing waits until the old ones of their names are forgotten.
    let mut children: Vec<_> = ["box", "also"]
        .map(|name| background(&kept.sandbox, name, &["box", "/bin/sh", "-c", "echo ready; exec sleep 1000"]))
        .into();
    for name in ["box", "also"] {
        kept.sandbox.wait_for_output(name, "ready");
    }
    kept.launch("other", &["--rm"], "exit 0");
    wait_until("the old records to be forgotten", || {
        let keeps = |name: &str| kept.run_dir().join("keeper").join(kept.sandbox.id(name)).exists();
        (!keeps("box") && !keeps("also") && !keeps("other")).then_some(())
    });
    for (name, child) in ["box", "also"].into_iter().zip(&mut children) {
        assert_eq!(kept.sandbox.status(name).as_deref(), Some("running"));
        kept.sandbox.runtime(["kill", &kept.sandbox.id(name), "KILL"]).ok();
        assert_eq!(child.wait().unwrap().code(), Some(137));
        kept.sandbox.coracle(["rm", &kept.sandbox.id(name)]).ok();
    }
}

#[test]
fn a_keeper_that_is_ended_leaves_its_containers_to_the_next() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i"], "trap 'exit 4' TERM; echo ready; while :; do sleep 0.02; done");
    kept.wait_for_log("box", "ready");
    let (keeper, standby) = kept.keeper();
    kept.signal_keeper(Signal::TERM);
    wait_until("both to be gone", || {
        let gone = |pid| !std::path::Path::new(&format!("/proc/{pid}/exe")).exists();
        (gone(keeper) && gone(standby)).then_some(())
    });
    assert_eq!(kept.sandbox.status("box").as_deref(), Some("running"));
    kept.launch("other", &["--rm"], "exit 0");
    kept.sandbox.coracle(["stop", &kept.sandbox.id("box")]).ok();
    assert_eq!(kept.wait("box"), 4);
}

#[test]
fn a_keeper_that_replaces_another_gets_all_that_one_had() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], &numbers(LINES));
    kept.launch("terminal", &["-t"], "echo ready; read x; echo got $x; exit 3");
    kept.wait_for_log("terminal", "ready");
    let (first, standby) = kept.keeper();
    let program = keeper_program();
    let again = || Run::new(program).arg("--run").arg(kept.run_dir());
    let refused = again().go();
    assert!(refused.stderr.contains("serves") && refused.stderr.contains("already"), "{refused}");
    assert_eq!(kept.keeper(), (first, standby));
    for _ in 0..3 {
        let before = kept.keeper();
        again().arg("--replace").go().ok();
        wait_until("another pair", || {
            let after = kept.keeper();
            (after.0 != before.0 && after.1 != before.1).then_some(())
        });
    }
    let attached = kept.client().attach(&kept.sandbox.id("terminal"), true).unwrap();
    attached.send(&Frame::Input(b"it\n")).unwrap();
    // None of these keepers was its parent.
    assert!(kept.wait("terminal") == 3 || !kernel_tells_ends(), "its terminal was hung up");
    assert!(kept.logs("terminal").contains("got it"));
    assert!(kept.wait("box") == 5 || !kernel_tells_ends());
    assert_numbers(&kept.logs("box"), LINES);
}

#[test]
fn the_beginning_of_a_terminals_line_is_logged_before_another_keeper_takes_over() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("terminal", &["-t"], "read x; printf 'name: '; read x; exit 3");
    let mut attached = kept.client().attach(&kept.sandbox.id("terminal"), true).unwrap();
    attached.send(&Frame::Input(b"\n")).unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"name: ") {
        match attached.receive().unwrap() {
            Some(Frame::Output(_, data)) => seen.extend_from_slice(data),
            other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&seen)),
        }
    }
    let again = || Run::new(keeper_program()).arg("--replace").arg("--run").arg(kept.run_dir()).go();
    again().ok();
    kept.wait_for_log("terminal", "name: ");
    let attached = kept.client().attach(&kept.sandbox.id("terminal"), true).unwrap();
    attached.send(&Frame::Input(b"\n")).unwrap();
    assert!(kept.wait("terminal") == 3 || !kernel_tells_ends());
}

#[test]
fn a_keeper_whose_successor_fails_goes_on() {
    needs!(root, busybox, launch_verb, strace);
    let kept = Kept::new();
    kept.launch("terminal", &["-t"], "echo ready; read x; echo got $x; exit 3");
    kept.wait_for_log("terminal", "ready");
    let before = kept.keeper();
    let successor = Run::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=epoll_create1"])
        .args(["-e", "inject=epoll_create1:error=EMFILE"])
        .arg(keeper_program())
        .arg("--replace")
        .arg("--run")
        .arg(kept.run_dir());
    successor.go().ok();
    assert_eq!(kept.keeper(), before);
    let attached = kept.client().attach(&kept.sandbox.id("terminal"), true).unwrap();
    attached.send(&Frame::Input(b"it\n")).unwrap();
    assert_eq!(kept.wait("terminal"), 3, "its terminal was hung up");
    assert!(kept.logs("terminal").contains("got it"));
}

#[test]
fn a_keeper_that_has_none_to_replace_just_begins() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let start = Run::new(keeper_program()).arg("--replace").arg("--run").arg(kept.run_dir());
    start.go().ok();
    kept.launch("box", &[], "exit 4");
    assert_eq!(kept.wait("box"), 4);
}

/// Removals of a name overlap with each other and with launches that take it: none of them meets another container.
#[test]
fn a_kept_container_survives_all_removals_of_earlier_ones_of_its_name() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let id = kept.sandbox.id("box");
    let directory = kept.sandbox.path("store/containers").join(&id);
    let end = std::time::Instant::now() + std::time::Duration::from_secs(8);
    let lasts = || std::time::Instant::now() < end;
    let survived = std::thread::scope(|scope| {
        for flags in [&["--rm", "--detach"][..], &["--rm"]] {
            let words = [&["launch"], flags, &["--name", &id, "box", "/bin/true"]].concat();
            let mut command = std::process::Command::new(Runtime::Ours.program());
            command.arg("--root").arg(kept.sandbox.root()).arg("--store").arg(kept.sandbox.path("store"));
            command.arg("--run").arg(kept.run_dir()).args(words).env("CORACLE_SANDBOX", kept.sandbox.id(""));
            scope.spawn(move || {
                while lasts() {
                    let output = command.output().unwrap();
                    let errors = String::from_utf8_lossy(&output.stderr);
                    let refused = ["exists", "in use", "was removed while it was created"];
                    let is_refusal = refused.iter().any(|why| errors.contains(why));
                    assert!(output.status.success() || is_refusal, "{errors}");
                }
            });
        }
        let mut survived = 0;
        while lasts() {
            let words = ["launch", "--name", &id, "box", "/bin/sh", "-c", "echo precious >/data"];
            if kept.sandbox.coracle(words).code() != Some(0) {
                continue;
            }
            std::thread::sleep(std::time::Duration::from_millis(100));
            assert_eq!(std::fs::read_to_string(directory.join("upper/data")).unwrap(), "precious\n");
            kept.sandbox.coracle(["rm", &id]).ok();
            survived += 1;
        }
        survived
    });
    assert!(survived > 0, "the name was never free");
}

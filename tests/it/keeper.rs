//! The keeper as a user meets it: `launch --detach` and what comes after, and what a keeper survives.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use coracle::keeper::client::Client;
use rustix::process::{Pid, Signal, kill_process};

use crate::launch::{plain, prepare};
use crate::support::{Output, Runtime, Sandbox, wait_until};

/// A sandbox with the image `box`; the keeper that a test starts there ends with it, whatever comes of the test.
pub(crate) struct Kept {
    pub(crate) sandbox: Sandbox,
}

impl Drop for Kept {
    fn drop(&mut self) {
        end_keepers(&self.run_dir());
    }
}

/// Ends the keeper of this run directory, and its standby.
pub(crate) fn end_keepers(run: &Path) {
    let keepers = || processes("coracle-keeper", run);
    for _ in 0..300 {
        if keepers().is_empty() {
            return;
        }
        for (pid, _) in keepers() {
            // The standby takes this for its keeper's word only.
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM);
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    for (pid, _) in keepers().into_iter().rev() {
        let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
    }
}

/// Pids and parents of all processes with this word on their command line.
fn processes(program: &str, word: &Path) -> Vec<(i32, i32)> {
    let entries = fs::read_dir("/proc").unwrap().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let described = pids.filter_map(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let is_it = words.next()?.ends_with(program.as_bytes());
        let named = words.any(|w| w == word.as_os_str().as_encoded_bytes());
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let parent = stat.rsplit(')').next()?.split(' ').nth(2)?.parse().ok()?;
        (is_it && named).then_some((pid, parent))
    });
    described.collect()
}

impl Kept {
    pub(crate) fn new() -> Self {
        Self { sandbox: plain() }
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.sandbox.path("run")
    }

    /// All keepers and standbys of this sandbox, with their parents.
    fn keepers(&self) -> Vec<(i32, i32)> {
        processes("coracle-keeper", &self.run_dir())
    }

    /// The keeper and its standby.
    #[track_caller]
    pub(crate) fn keeper(&self) -> (i32, i32) {
        wait_until("a keeper with a standby", || {
            let all = self.keepers();
            // A launcher is a third one, for a moment.
            let &[first, second] = &all[..] else { return None };
            match (first.1 == second.0, second.1 == first.0) {
                (true, _) => Some((second.0, first.0)),
                (_, true) => Some((first.0, second.0)),
                _ => None,
            }
        })
    }

    pub(crate) fn signal_keeper(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.keeper().0).unwrap(), signal).unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.run_dir()).unwrap()
    }

    /// `launch --detach FLAGS box sh -c SCRIPT`
    #[track_caller]
    pub(crate) fn launch(&self, name: &str, flags: &[&str], script: &str) {
        let words = [&["--detach"], flags, &["box", "/bin/sh", "-c", script]].concat();
        let output = prepare(&self.sandbox, name, words).go().ok();
        assert_eq!(output.stdout.trim(), self.sandbox.id(name), "{output}");
    }

    fn verb(&self, words: &[&str], name: &str) -> Output {
        let id = self.sandbox.id(name);
        self.sandbox.coracle(words.iter().copied().chain([id.as_str()]))
    }

    #[track_caller]
    pub(crate) fn wait(&self, name: &str) -> u8 {
        self.verb(&["wait"], name).ok().stdout.trim().parse().unwrap()
    }

    pub(crate) fn logs(&self, name: &str) -> String {
        self.verb(&["logs"], name).ok().stdout
    }

    pub(crate) fn log_path(&self, name: &str) -> PathBuf {
        self.sandbox.path("store").join("containers").join(self.sandbox.id(name)).join("log")
    }

    /// The log as it is on disk, without its times.
    fn raw_log(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.log_path(name)).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }

    #[track_caller]
    pub(crate) fn wait_for_log(&self, name: &str, text: &str) {
        wait_until(&format!("{text:?} in the log of {name}"), || {
            fs::read_to_string(self.log_path(name)).ok()?.contains(text).then_some(())
        });
    }

    /// A `coracle` with these words that goes on by itself, its input and output ours.
    fn start(&self, words: &[&str], name: &str) -> Child {
        let mut command = Command::new(Runtime::Ours.program());
        command.arg("--root").arg(self.sandbox.root()).arg("--store").arg(self.sandbox.path("store"));
        command.arg("--run").arg(self.run_dir()).args(words).arg(self.sandbox.id(name));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        command.spawn().unwrap()
    }

    pub(crate) fn rm(&self, name: &str) {
        self.verb(&["rm"], name).ok();
    }
}

/// A script that writes numbered lines and then exits with 5.
pub(crate) fn numbers(count: u32) -> String {
    format!("i=0; while [ $i -lt {count} ]; do echo line $i; i=$((i+1)); done; exit 5")
}

/// Each line once and in order.
#[track_caller]
pub(crate) fn assert_numbers(text: &str, count: u32) {
    let expected: String = (0..count).map(|i| format!("line {i}\n")).collect();
    let differs = text.lines().zip(expected.lines()).position(|(a, b)| a != b);
    assert!(text == expected, "{} lines, first difference at {differs:?}", text.lines().count());
}

#[test]
fn a_detached_container_is_seen_by_every_verb_and_its_end_is_known() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], "echo hello; echo bad >&2; trap 'exit 7' TERM; while :; do sleep 0.02; done");
    assert_eq!(kept.sandbox.status("box").as_deref(), Some("running"));
    kept.wait_for_log("box", "bad");
    let exec = ["exec", &kept.sandbox.id("box"), "/bin/echo", "inside"];
    assert_eq!(kept.sandbox.runtime(exec).ok().stdout, "inside\n");
    let output = kept.verb(&["logs"], "box").ok();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("hello\n", "bad\n"));
    kept.verb(&["rm"], "box").fails();
    kept.verb(&["stop"], "box").ok();
    assert_eq!(kept.wait("box"), 7);
    let list = kept.sandbox.coracle(["list"]).ok();
    assert!(list.stdout.contains("stopped (7)"), "{list}");
    assert_eq!(kept.sandbox.state("box")["exitCode"], 7);
    assert_eq!(kept.client().list().unwrap(), []);
    kept.rm("box");
    assert_eq!(kept.sandbox.status("box"), None);
    assert!(!kept.log_path("box").exists());
}

#[test]
fn a_launch_that_fails_leaves_nothing_with_the_keeper() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    for (words, code) in [
        (&["-d", "box", "/no/such/program"][..], 127),
        (&["-d", "box", "/etc/group"][..], 126),
        (&["-d", "-w", "/etc/group", "box", "/bin/true"][..], 125),
    ] {
        let output = prepare(&kept.sandbox, "box", words).go().exits(code);
        assert!(output.stderr.starts_with("error: ") && output.stdout.is_empty(), "{output}");
        assert_eq!(kept.sandbox.status("box"), None, "{words:?}");
        wait_until("the keeper to forget it", || kept.client().list().unwrap().is_empty().then_some(()));
        assert_eq!(fs::read_dir(kept.run_dir().join("keeper")).unwrap().count(), 0, "{words:?}");
    }
    kept.launch("box", &["--rm"], "exit 0");
}

#[test]
fn what_is_to_be_removed_goes_at_its_end_though_no_client_is_there() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    for script in ["exit 3", "sleep 0.1; exit 3"] {
        kept.launch("box", &["--rm"], script);
        wait_until("the container to be removed", || {
            let gone = !kept.log_path("box").parent().unwrap().exists();
            (gone && kept.sandbox.status("box").is_none()).then_some(())
        });
    }
    assert_eq!(fs::read_dir(kept.run_dir().join("keeper")).unwrap().count(), 0);
}

#[test]
fn logs_have_the_cri_format() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch(
        "box",
        &[],
        "dd if=/dev/zero bs=40000 count=1 2>/dev/null | tr '\\0' x; echo; echo; printf end",
    );
    assert_eq!(kept.wait("box"), 0);
    let expected = [
        format!("stdout P {}", "x".repeat(16384)),
        format!("stdout P {}", "x".repeat(16384)),
        format!("stdout F {}", "x".repeat(40000 - 2 * 16384)),
        "stdout F ".to_owned(),
        "stdout P end".to_owned(),
    ];
    assert!(kept.raw_log("box") == expected, "{:?}", kept.raw_log("box").iter().map(String::len));
    assert_eq!(kept.logs("box"), format!("{}\n\nend", "x".repeat(40000)));
    let text = fs::read_to_string(kept.log_path("box")).unwrap();
    for line in text.lines() {
        let time = line.split(' ').next().unwrap();
        assert!(time.len() == 30 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    }
}

#[test]
fn logs_are_shown_as_asked() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &["-i"], "echo 1; echo 2; echo 3; read x; echo $x");
    kept.wait_for_log("box", "3");
    assert_eq!(kept.verb(&["logs", "--tail", "2"], "box").ok().stdout, "2\n3\n");
    assert_eq!(kept.verb(&["logs", "--tail", "0"], "box").ok().stdout, "");
    assert_eq!(kept.verb(&["logs", "--since", "1h"], "box").ok().stdout, "1\n2\n3\n");
    assert_eq!(kept.verb(&["logs", "--since", "2100-01-01T00:00:00Z"], "box").ok().stdout, "");
    let timed = kept.verb(&["logs", "-t"], "box").ok().stdout;
    assert!(timed.lines().all(|line| line.len() == 32 && line.contains("Z ")), "{timed}");
    let mut follower = kept.start(&["logs", "-f", "-n", "1"], "box");
    let mut shown = [0; 2];
    std::io::Read::read_exact(follower.stdout.as_mut().unwrap(), &mut shown).unwrap();
    assert_eq!(&shown, b"3\n");
    let moved = kept.log_path("box").with_extension("1");
    fs::rename(kept.log_path("box"), &moved).unwrap();
    kept.client().reopen(&kept.sandbox.id("box")).unwrap();
    let mut attached = kept.start(&["attach"], "box");
    std::io::Write::write_all(attached.stdin.as_mut().unwrap(), b"4\n").unwrap();
    let shown = follower.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout), "4\n", "over the rotation, to the end");
    assert_eq!(kept.raw_log("box"), ["stdout F 4"]);
    assert!(attached.wait().unwrap().success());
    kept.verb(&["logs"], "none").fails();
}

#[test]
fn a_full_disk_costs_lines_and_never_the_container_its_time() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let script = "i=0; while [ ! -e /go ]; do sleep 0.01; done; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; \
                  touch /full; while [ ! -e /more ]; do sleep 0.01; done; echo after";
    kept.launch("box", &[], script);
    let small = kept.sandbox.path("small");
    let _mount = SmallDisk::new(&small);
    let log = small.join("log");
    fs::write(&log, "").unwrap();
    let bind = crate::support::Run::new("mount").args(["--bind"]).arg(&log);
    bind.arg(kept.log_path("box")).go().ok();
    let _bound = SmallDisk(kept.log_path("box"));
    kept.client().reopen(&kept.sandbox.id("box")).unwrap();
    let inside = |words: &[&str]| {
        let id = kept.sandbox.id("box");
        kept.sandbox.runtime([&["exec", id.as_str()], words].concat()).code() == Some(0)
    };
    assert!(inside(&["/bin/touch", "/go"]));
    wait_until("the container to have written all", || inside(&["/bin/ls", "/full"]).then_some(()));
    let kept_lines = fs::read_to_string(&log).unwrap();
    assert!(kept_lines.ends_with('\n') && kept_lines.lines().count() < 20000, "no line is cut in half");
    fs::write(&log, "").unwrap();
    kept.client().reopen(&kept.sandbox.id("box")).unwrap();
    assert!(inside(&["/bin/touch", "/more"]));
    assert_eq!(kept.wait("box"), 0);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    let lost = 20000 - kept_lines.lines().filter(|line| line.contains(" stdout F line ")).count();
    assert!(lines[0].starts_with("stderr F coracle-keeper: "), "{lines:?}");
    assert!(lines[0].contains(" of output were dropped: no storage space"), "{lines:?}");
    let counted = |line: &str| -> usize { line.split(' ').nth(3).unwrap().parse().unwrap() };
    let notes = kept_lines.lines().filter(|l| l.contains("coracle-keeper: "));
    let noted: usize =
        notes.map(|l| counted(l.split_once(' ').unwrap().1)).sum::<usize>() + counted(lines[0]);
    assert_eq!(noted, lost, "every line is in the log or counted");
    assert_eq!(lines[1..], ["stdout F after"]);
}

/// A tmpfs of 64 KiB, or another mount; gone when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(path: &Path) -> Self {
        fs::create_dir(path).unwrap();
        let mount = ["-t", "tmpfs", "-o", "size=64k", "none"];
        crate::support::Run::new("mount").args(mount).arg(path).go().ok();
        Self(path.to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        crate::support::Run::new("umount").arg("-l").arg(&self.0).go();
    }
}

#[test]
fn a_log_that_others_replaced_is_neither_waited_for_nor_written_to() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    kept.launch("box", &[], "while :; do echo line; sleep 0.02; done");
    kept.wait_for_log("box", "line");
    let victim = kept.sandbox.path("victim");
    fs::write(&victim, "kept").unwrap();
    let (log, id) = (kept.log_path("box"), kept.sandbox.id("box"));
    let replaced: [&dyn Fn(); 3] = [
        &|| drop(crate::support::Run::new("mkfifo").arg(&log).go().ok()),
        &|| std::os::unix::fs::symlink(&victim, &log).unwrap(),
        &|| fs::hard_link(&victim, &log).unwrap(),
    ];
    for (number, replace) in replaced.iter().enumerate() {
        fs::rename(&log, log.with_extension(number.to_string())).unwrap();
        replace();
        let refused = kept.client().reopen(&id).unwrap_err().chain();
        assert!(refused.contains("open the log anew: "), "{refused}");
        // It goes on, with the file that it had.
        kept.launch(&format!("other{number}"), &[], "true");
        assert_eq!(kept.wait(&format!("other{number}")), 0);
        fs::remove_file(&log).unwrap();
        kept.client().reopen(&id).unwrap();
    }
    assert_eq!(fs::read_to_string(&victim).unwrap(), "kept");
    kept.wait_for_log("box", "line");
    // A keeper that comes next finds it so, too.
    fs::remove_file(&log).unwrap();
    crate::support::Run::new("mkfifo").arg(&log).go().ok();
    kept.signal_keeper(Signal::KILL);
    kept.launch("after", &[], "true");
    assert_eq!(kept.wait("after"), 0);
    kept.sandbox.coracle(["stop", "-t", "0", &id]).ok();
}

#[test]
fn want_of_memory_is_told_from_a_kill() {
    needs!(root, busybox, launch_verb, cgroup_limits);
    let kept = Kept::new();
    let hog = "exec dd if=/dev/zero of=/dev/null bs=60M count=1";
    kept.launch("hog", &["-m", "24m", "--memory-swap", "24m"], hog);
    assert_eq!(kept.wait("hog"), 137);
    assert_eq!(kept.sandbox.state("hog")["oomKilled"], true);
    let list = kept.sandbox.coracle(["list"]).ok();
    assert!(list.stdout.contains("stopped (137, out of memory)"), "{list}");
    kept.launch("killed", &["-m", "24m"], "while :; do sleep 0.02; done");
    kept.sandbox.runtime(["kill", &kept.sandbox.id("killed"), "KILL"]).ok();
    assert_eq!(kept.wait("killed"), 137);
    assert_eq!(kept.sandbox.state("killed")["oomKilled"], false);
}

#[test]
fn stop_asks_first_and_kills_then() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let loops = "while :; do sleep 0.02; done";
    kept.launch("polite", &[], &format!("trap 'echo bye; exit 4' TERM; echo ready; {loops}"));
    kept.launch("usr", &[], &format!("trap 'exit 6' USR1; echo ready; {loops}"));
    kept.launch("deaf", &[], &format!("trap '' TERM; echo ready; {loops}"));
    for name in ["polite", "usr", "deaf"] {
        kept.wait_for_log(name, "ready");
    }
    kept.verb(&["stop"], "polite").ok();
    assert_eq!(kept.logs("polite"), "ready\nbye\n", "all is logged when stop returns");
    kept.verb(&["stop", "-s", "USR1"], "usr").ok();
    kept.verb(&["stop", "-t", "0"], "deaf").ok();
    kept.verb(&["stop"], "deaf").ok();
    let codes = ["polite", "usr", "deaf"].map(|name| kept.wait(name));
    assert_eq!(codes, [4, 6, 137]);
    kept.verb(&["stop"], "none").fails();
}

#[test]
fn launches_at_the_same_time_share_one_keeper() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let names: Vec<String> = (0..8).map(|n| format!("box{n}")).collect();
    let ids: Vec<String> = names.iter().map(|name| kept.sandbox.id(name)).collect();
    std::thread::scope(|scope| {
        for (number, id) in ids.iter().enumerate() {
            let mut command = Command::new(Runtime::Ours.program());
            command.arg("--root").arg(kept.sandbox.root()).arg("--store").arg(kept.sandbox.path("store"));
            command.arg("--run").arg(kept.run_dir()).args(["launch", "-d", "--name", id, "box"]);
            command.args(["/bin/sh", "-c", &format!("echo {number}; exit {number}")]);
            scope.spawn(move || assert!(command.status().unwrap().success()));
        }
    });
    for (number, name) in names.iter().enumerate() {
        assert_eq!(usize::from(kept.wait(name)), number);
        assert_eq!(kept.logs(name), format!("{number}\n"));
    }
    kept.keeper();
}

#[test]
fn records_that_cannot_be_read_hide_no_container_and_hang_nothing() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    for name in ["fifo", "cut", "whole"] {
        kept.launch(name, &[], "exit 3");
        assert_eq!(kept.wait(name), 3);
    }
    let file = |name: &str, file: &str| kept.sandbox.root().join(kept.sandbox.id(name)).join(file);
    fs::remove_file(file("fifo", "exit")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, file("fifo", "exit"), rustix::fs::Mode::RWXU).unwrap();
    fs::write(file("cut", "state.json"), r#"{"id": "cu"#).unwrap();
    let list = kept.sandbox.coracle(["list"]).ok();
    let row = |name: &str| list.stdout.lines().find(|line| line.contains(&kept.sandbox.id(name)));
    assert!(row("whole").unwrap().contains("stopped (3)"), "{list}");
    assert!(row("fifo").unwrap().contains("stopped (unknown)"), "{list}");
    assert!(row("cut").is_none() && list.stderr.contains(&kept.sandbox.id("cut")), "{list}");
    // Each name has its turn, whatever comes of the others.
    let ids = ["fifo", "cut", "none", "whole"].map(|name| kept.sandbox.id(name));
    let waited = kept.sandbox.coracle(["wait", &ids[0], &ids[1], &ids[2], &ids[3]]).fails();
    assert_eq!(waited.stdout, "3\n", "{waited}");
    assert!(ids[..3].iter().all(|id| waited.stderr.contains(id.as_str())), "{waited}");
    let stopped = kept.sandbox.coracle(["stop", &ids[2], &ids[3]]).fails();
    assert!(stopped.stderr.contains(&ids[2]) && !stopped.stderr.contains(&ids[3]), "{stopped}");
    kept.sandbox.coracle(["rm", "--force", &ids[2], &ids[0], &ids[1], &ids[3]]).fails();
    assert!(fs::read_dir(kept.sandbox.root()).unwrap().next().is_none());
}

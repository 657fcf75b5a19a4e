//! `kill -9` of each verb at every moment: whatever it leaves half-made, `delete --force` ends and removes soon.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::rounds;
use crate::support::{Bundle, Run, Sandbox, wait_until};

/// Longer than any removal takes, and much shorter than a hang.
const SOON: Duration = Duration::from_secs(10);

/// What has to be there before a verb is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    Nothing,
    Created,
    Running,
}

struct Verb {
    name: &'static str,
    words: &'static [&'static str],
    before: Before,
    /// Whether `--bundle` and the path of one follow.
    bundle: bool,
    after: &'static [&'static str],
}

const fn verb(name: &'static str, words: &'static [&'static str], before: Before) -> Verb {
    Verb { name, words, before, bundle: matches!(before, Before::Nothing), after: &[] }
}

/// The command as a process of its own; its output is of no interest.
fn start(sandbox: &Sandbox, words: &[&str], bundle: Option<&Bundle>, after: &[&str]) -> Child {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(sandbox.runtime_kind().program());
    command.arg("--root").arg(sandbox.root()).args(words);
    if let Some(bundle) = bundle {
        command.arg("--bundle").arg(bundle.path());
    }
    command.arg(sandbox.id("web")).args(after);
    command.env("CORACLE_SANDBOX", sandbox.mark()).env("CORACLE_RUN", sandbox.path("run"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().unwrap()
}

/// Runs `once` with ever later kills: from the first moment to somewhat after the end of an undisturbed call.
fn at_every_moment(what: &str, mut once: impl FnMut(Option<Duration>) -> Result<(), String>) {
    let began = Instant::now();
    once(None).unwrap();
    let whole = began.elapsed().min(Duration::from_millis(60));
    let count = u32::try_from(rounds() * 3).unwrap();
    let once_at = |round| {
        let delay = whole * round / count;
        once(Some(delay)).err().map(|error| format!("killed after {delay:?} (round {round}): {error}"))
    };
    // Each hang takes its time: three are enough to know.
    let failed: Vec<_> = (0..count).filter_map(once_at).take(3).collect();
    assert!(failed.is_empty(), "{what}, {count} kills:\n{}", failed.join("\n"));
}

/// Lets a command run for so long, then kills it and nothing but it.
fn run_for(mut child: Child, delay: Option<Duration>) {
    match delay {
        None => drop(wait_until("the command to end", || child.try_wait().unwrap())),
        Some(delay) => {
            std::thread::sleep(delay);
            let _ = child.kill();
            child.wait().unwrap();
        }
    }
}

/// A command that may fail but not hang.
fn ends_soon(run: Run) -> Result<(), String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    let work = std::thread::spawn(move || {
        let output = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run.patience(SOON).go()));
        let _ = sender.send(output.is_ok());
    });
    let in_time = receiver.recv().unwrap();
    work.join().unwrap();
    if in_time { Ok(()) } else { Err(format!("the removal hung for {SOON:?}")) }
}

/// Nothing of the container is left on the machine.
fn nothing_is_left(sandbox: &Sandbox) -> Result<(), String> {
    let until = Instant::now() + SOON;
    loop {
        let left = sandbox.traces();
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() > until {
            end_all(&left);
            return Err(format!("left behind: {left:?}"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What hangs would be found again in the next round.
fn end_all(left: &[crate::support::Leftover]) {
    use rustix::process::{Pid, Signal, kill_process};
    for leftover in left {
        if let crate::support::Leftover::Process(pid @ 2.., ..) = leftover {
            let _ = kill_process(Pid::from_raw(*pid).unwrap(), Signal::KILL);
        }
    }
}

fn killed(verb: &Verb) {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("sleeping");
    at_every_moment(verb.name, |delay| {
        match verb.before {
            Before::Nothing => {}
            Before::Created => drop(sandbox.create(&bundle, "web").ok()),
            Before::Running => drop(sandbox.run_detached(&bundle, "web", &[]).ok()),
        }
        let child = start(&sandbox, verb.words, verb.bundle.then_some(&bundle), verb.after);
        // In the foreground it lasts as long as its payload.
        let stays = ["run", "exec"].contains(&verb.name);
        run_for(child, delay.or(stays.then_some(Duration::from_millis(60))));
        let removed = ends_soon(sandbox.prepare(["delete", "--force", &sandbox.id("web")]));
        let clean = nothing_is_left(&sandbox);
        if removed.is_err() || clean.is_err() {
            // For the next round.
            let _ = ends_soon(sandbox.prepare(["delete", "--force", &sandbox.id("web")]));
        }
        removed.and(clean)
    });
}

#[test]
fn run_in_the_foreground() {
    needs!(root, busybox, oci_verbs);
    killed(&verb("run", &["run"], Before::Nothing));
}

#[test]
fn run_detached() {
    needs!(root, busybox, oci_verbs);
    killed(&verb("run -d", &["run", "--detach"], Before::Nothing));
}

#[test]
fn create() {
    needs!(root, busybox, oci_verbs);
    killed(&verb("create", &["create"], Before::Nothing));
}

#[test]
fn start_of_what_was_created() {
    needs!(root, busybox, oci_verbs);
    killed(&verb("start", &["start"], Before::Created));
}

#[test]
fn exec() {
    needs!(root, busybox, oci_verbs);
    killed(&Verb { after: &["/bin/sleep", "1000"], ..verb("exec", &["exec"], Before::Running) });
    killed(&Verb {
        after: &["/bin/sleep", "1000"],
        ..verb("exec -d", &["exec", "--detach"], Before::Running)
    });
}

#[test]
fn delete() {
    needs!(root, busybox, oci_verbs);
    killed(&verb("delete", &["delete", "--force"], Before::Running));
}

#[test]
fn launch() {
    needs!(root, busybox, launch_verb);
    for detach in [false, true] {
        let kept = crate::keeper::Kept::new();
        let sandbox = &kept.sandbox;
        // The keeper is there already, as on every machine that runs for a while.
        kept.launch("first", &[], "while :; do sleep 1; done");
        let store = sandbox.path("store").display().to_string();
        at_every_moment(if detach { "launch -d" } else { "launch" }, |delay| {
            let mut words = vec!["--store", &store, "launch"];
            words.extend(detach.then_some("--detach"));
            words.push("--name");
            let child = start(sandbox, &words, None, &["box", "/bin/sleep", "1000"]);
            let delay = delay.or((!detach).then_some(Duration::from_millis(60)));
            run_for(child, delay);
            ends_soon(sandbox.prepare(["--store", &store, "rm", "--force", &sandbox.id("web")]))?;
            gone(sandbox, "web")
        });
        sandbox.coracle(["rm", "--force", &sandbox.id("first")]).ok();
    }
}

/// Nothing of this container is left, though others run.
fn gone(sandbox: &Sandbox, name: &str) -> Result<(), String> {
    let (id, until) = (sandbox.id(name), Instant::now() + SOON);
    let traces = || -> Vec<String> {
        let all = sandbox.traces().into_iter().map(|left| format!("{left:?}"));
        let layers = sandbox.path("store/containers").join(&id);
        all.filter(|left| left.contains(&id))
            .chain(layers.exists().then(|| layers.display().to_string()))
            .collect()
    };
    while !traces().is_empty() {
        if Instant::now() > until {
            return Err(format!("left behind: {:?}", traces()));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

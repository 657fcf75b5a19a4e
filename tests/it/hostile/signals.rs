//! Stops and kills of the process that an exec or a start is setting up: the container's other callers must not wait
//! for it, and what was begun ends.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::exec::{Attacker, attacked};
use super::report::Role;
use super::rounds;
use super::spy::note;
use super::start::neighbour;
use crate::support::Sandbox;

/// Longer than a call takes whatever hangs beside it, on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

/// A call of the runtime that is not waited for.
fn begin(sandbox: &Sandbox, words: &[&str]) -> Child {
    use std::os::unix::process::CommandExt;
    let mut command = Command::new(sandbox.runtime_kind().program());
    command.arg("--root").arg(sandbox.root()).args(words).env("CORACLE_SANDBOX", sandbox.mark());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    command.spawn().unwrap()
}

/// Waits a little for them; whether all have ended.
fn all_end(children: &mut [Child], limit: Duration) -> bool {
    let until = Instant::now() + limit;
    loop {
        if children.iter_mut().all(|child| child.try_wait().unwrap().is_some()) {
            return true;
        }
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn end(children: &mut [Child]) {
    for child in children {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Execs until one is caught; then every other verb has to answer.
fn exec_is_stopped(attacker: Attacker, user: &str) {
    let (sandbox, spy) = attacked(attacker, Role::Stop);
    let web = sandbox.id("web");
    let mut caught = Vec::new();
    for _ in 0..rounds() {
        let mut child = [begin(&sandbox, &["exec", "--user", user, &web, "/bin/true"])];
        if !all_end(&mut child, Duration::from_millis(300)) {
            caught.extend(child);
            break;
        }
    }
    let hung = caught.len();
    note(&format!("{attacker:?}: {hung} execs hang: {:?}", spy.so_far()));
    sandbox.prepare(["state", &web]).patience(SOON).go().ok();
    sandbox.prepare(["list"]).patience(SOON).go().ok();
    if hung == 0 {
        // Nobody stops who cannot be seen; others are not hindered either.
        sandbox.prepare(["exec", "--user", user, &web, "/bin/true"]).patience(SOON).go();
    }
    let killed = sandbox.prepare(["kill", &web, "KILL"]).patience(SOON);
    killed.go().ok();
    sandbox.prepare(["delete", "--force", &web]).patience(SOON).go().ok();
    let ended = all_end(&mut caught, SOON);
    end(&mut caught);
    assert!(ended, "an exec hangs though its container is gone");
}

#[test]
fn an_exec_that_is_stopped_holds_up_nobody() {
    needs!(root, busybox, oci_verbs);
    exec_is_stopped(Attacker::User, "1000:1000");
    exec_is_stopped(Attacker::Root, "0:0");
}

#[test]
fn an_exec_into_a_user_namespace_that_is_stopped_holds_up_nobody() {
    needs!(root, busybox, oci_verbs, user_namespaces);
    exec_is_stopped(Attacker::MappedTracer, "0:0");
}

#[test]
fn a_neighbours_start_that_is_stopped_holds_up_nobody() {
    needs!(root, busybox, oci_verbs);
    let (sandbox, spy) = attacked(Attacker::Root, Role::Stop);
    let bundle = neighbour(&sandbox, sandbox.bundle("sleeping"), &["pid"]);
    let (next, path) = (sandbox.id("next"), bundle.path().display().to_string());
    for round in 0..rounds().div_ceil(4) {
        let verb = if round % 2 == 0 { "create" } else { "run" };
        let mut words = vec![verb];
        words.extend((verb == "run").then_some("--detach"));
        words.extend(["--bundle", &path, &next]);
        let mut child = [begin(&sandbox, &words)];
        let hangs = !all_end(&mut child, Duration::from_millis(500));
        sandbox.prepare(["list"]).patience(SOON).go().ok();
        sandbox.prepare(["delete", "--force", &next]).patience(SOON).go().ok();
        let ended = all_end(&mut child, SOON);
        end(&mut child);
        assert!(ended, "{verb} hangs (caught: {hangs}) though its container is gone: {:?}", spy.so_far());
    }
    spy.stop();
}

/// Killed at any moment, a process that is set up leaves nothing, and its caller says so.
#[test]
fn who_is_killed_while_it_is_set_up_leaves_nothing() {
    needs!(root, busybox, oci_verbs);
    for role in [Role::Kill, Role::Meddle] {
        let (sandbox, spy) = attacked(Attacker::Root, role);
        let bundle = neighbour(&sandbox, sandbox.bundle("sleeping").args(&["/bin/true"]), &["pid"]);
        for round in 0..rounds() {
            if round % 2 == 0 {
                sandbox.prepare(["exec", &sandbox.id("web"), "/bin/true"]).patience(SOON).go();
            } else {
                let next = sandbox.id("next");
                let run = sandbox.prepare(["run", "--bundle"]).arg(bundle.path()).arg(&next);
                let output = run.patience(SOON).go();
                if sandbox.status("next").is_some() {
                    assert!(output.code() == Some(0), "a failed start left its container: {output}");
                    sandbox.runtime(["delete", "--force", &next]).ok();
                }
            }
        }
        eprintln!("{role:?}: {:?}", spy.stop());
        sandbox.runtime(["exec", &sandbox.id("web"), "/bin/true"]).ok();
    }
}

//! `kill -9` of each verb at every moment: whatever it leaves half-made, `delete --force` ends and removes soon.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::rounds;
use crate::support::{Bundle, Run, Sandbox, Serve, container, pod_on_host, wait_until};

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
    let count = u32::try_from(rounds() * 2).unwrap();
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

/// Processes that hold the daemon's lock.
fn holders(serve: &Serve) -> Vec<i32> {
    let lock = serve.kept().run_dir().join("serve.lock");
    assert!(lock.exists(), "{} is no longer what says who serves", lock.display());
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let all = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let holds = |pid: &i32| {
        let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        fds.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link == lock)
    };
    all.filter(holds).collect()
}

/// What a killed daemon was still setting up: processes that are neither payloads nor the daemon nor the keeper.
fn half_made(serve: &Serve) -> Vec<String> {
    let all = serve.sandbox().traces().into_iter().filter_map(|left| match left {
        crate::support::Leftover::Process(pid, command, _) => Some((pid, command)),
        _ => None,
    });
    let is_ours =
        |command: &str| command.split_whitespace().next().is_some_and(|name| name.ends_with("/coracle"));
    let all = all.filter(|(pid, command)| *pid != serve.pid() && is_ours(command));
    all.map(|(pid, command)| format!("{pid}: {command}")).collect()
}

/// An ExecSync that a kill of the daemon interrupts; then the next daemon, which must start at once and not find the lock
/// held by what the first one left.
fn exec_sync_is_cut(
    serve: &Serve,
    id: &str,
    command: &[&str],
    delay: Option<Duration>,
) -> Result<(), String> {
    let request = coracle_cri::v1::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: command.iter().map(|word| (*word).to_owned()).collect(),
        timeout: 0,
    };
    let (mut client, pid) = (serve.runtime(), Pid::from_raw(serve.pid()).unwrap());
    let Some(delay) = delay else {
        serve.block_on(client.exec_sync(request)).unwrap();
        return Ok(());
    };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(delay);
            kill_process(pid, Signal::KILL).unwrap();
        });
        let _ = serve.block_on(client.exec_sync(request));
    });
    serve.wait();
    let began = Instant::now();
    serve.start();
    let took = began.elapsed();
    if took > SOON {
        return Err(format!("the next daemon took {took:?} to start"));
    }
    let others: Vec<_> = holders(serve).into_iter().filter(|pid| *pid != serve.pid()).collect();
    if !others.is_empty() {
        return Err(format!("{others:?} hold the lock beside the daemon"));
    }
    while !half_made(serve).is_empty() {
        if began.elapsed() > SOON {
            return Err(format!("left behind: {:?}", half_made(serve)));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

#[test]
fn serve_while_it_executes() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("killed"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    at_every_moment("serve", |delay| {
        exec_sync_is_cut(&serve, &c, &["/bin/true"], delay)?;
        // The container is as usable as before.
        match serve.try_exec(&c, "exit 3", Some(Duration::from_secs(10))) {
            Ok(answer) if answer.exit_code == 3 => Ok(()),
            other => Err(format!("the next ExecSync: {other:?}")),
        }
    });
    // As a probe that hangs, which the daemon is killed in the midst of.
    for delay in [5, 20, 60] {
        exec_sync_is_cut(&serve, &c, &["/bin/sleep", "1000"], Some(Duration::from_millis(delay))).unwrap();
    }
    serve.removes_all();
}

//! Budgets: what one start may cost, as counts that do not depend on how fast the machine is. The ceilings lie some
//! percent above what was measured; whoever exceeds one finds out why, or argues for a new one in the commit.

use std::fs;

use coracle_cri::v1::{ListImagesRequest, StatusRequest};
use tonic::Code;

use crate::keeper::Kept;
use crate::support::{
    Runtime, Sandbox, Serve, are_dist_builds, container, coracle_program, keeper_program, pod_on_host,
    wait_until,
};

/// Ceilings for the two kinds of builds. Those for `dist` builds are promised; unoptimised builds check every descriptor
/// before they close it, and their code is larger, so their ceilings catch only what is grossly wrong.
struct Ceiling<T> {
    dist: T,
    unoptimised: T,
}

impl<T: Copy> Ceiling<T> {
    /// The one that holds for the programs under test.
    fn get(&self) -> T {
        if are_dist_builds() { self.dist } else { self.unoptimised }
    }
}

/// System calls of `run` of a program that does nothing: the command, the container's init and the payload.
const CALLS_OF_RUN: Ceiling<usize> = Ceiling { dist: 640, unoptimised: 740 };

/// System calls of the container's init from its birth to the payload's `execve`.
const CALLS_OF_INIT: Ceiling<usize> = Ceiling { dist: 250, unoptimised: 285 };

/// Largest resident set of `create`, in KiB.
const PEAK_KIB: Ceiling<u64> = Ceiling { dist: 3_680, unoptimised: 16_000 };

/// The keeper with its standby and no container, in KiB of their own share of memory.
const KEEPER_KIB: Ceiling<u64> = Ceiling { dist: 1_024, unoptimised: 3_000 };

/// The daemon, the keeper and its standby with a hundred pods of one container each, in KiB of their own share of memory.
const NODE_KIB: Ceiling<u64> = Ceiling { dist: 12 << 10, unoptimised: 48 << 10 };

/// What the keeper and its standby take for each container, in KiB.
const CONTAINER_KIB: u64 = 16;

/// `coracle serve` when nothing happens, in KiB of its own share of memory.
const SERVE_KIB: Ceiling<u64> = Ceiling { dist: 8_192, unoptimised: 24_000 };

/// Threads of an idle `coracle serve`: one answers, one hears of containers that end.
const OWN_THREADS: usize = 2;

/// The size of the keeper's program in bytes. A static program that only prints a word has 1.08 million: libc and std.
const KEEPER_BYTES: u64 = 1_600_000;

/// The size of the other program in bytes. What else is in a package: deb/test.
/// 0.9 million of them came with streaming (HTTP/1.1 server, SPDY, WebSocket), metrics, and switching nodes.
const CORACLE_BYTES: u64 = 13_200_000;

/// One traced `run`: `<pid> <call>` a line, as strace writes it.
fn trace_of_run() -> Vec<String> {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/true"]);
    let trace = sandbox.path("trace");
    let program = Runtime::Ours.program();
    let (id, root) = (sandbox.id("run"), sandbox.root());
    let mut strace =
        vec!["-f".as_ref(), "-qq".as_ref(), "-o".as_ref(), trace.as_os_str(), program.as_os_str()];
    strace.extend(["--root".as_ref(), root.as_os_str(), "run".as_ref(), "--bundle".as_ref()]);
    strace.extend([bundle.path().as_os_str(), id.as_ref()]);
    sandbox.in_view("strace".as_ref(), &strace).go().ok();
    let text = fs::read_to_string(trace).unwrap();
    let is_call = |line: &&str| {
        let call = line.split_once(' ').map_or("", |(_, call)| call.trim_start());
        call.starts_with(|c: char| c.is_ascii_lowercase() || c == '_') && !reads_a_mount(call)
    };
    text.lines().filter(is_call).map(str::to_owned).collect()
}

/// Whether a call reads lines of /proc/self/mountinfo: how many calls that takes depends on the mounts of other tests.
fn reads_a_mount(call: &str) -> bool {
    let text = call.split_once('"').filter(|_| call.starts_with("read(")).map_or("", |(_, text)| text);
    let mut words = text.split(' ');
    let mut is_next =
        |c| words.next().is_some_and(|w| !w.is_empty() && w.chars().all(|d| d.is_ascii_digit() || d == c));
    is_next('0') && is_next('0') && is_next(':') && words.next().is_some_and(|word| word.starts_with('/'))
}

#[test]
fn a_run_stays_within_its_system_calls() {
    needs!(root, busybox, oci_verbs, strace);
    let calls = trace_of_run();
    let count = calls.len();
    assert!(count > 100, "strace saw almost nothing: {calls:#?}");
    let most = CALLS_OF_RUN.get();
    assert!(count <= most, "{count} system calls, allowed are {most}: {calls:#?}");
}

#[test]
fn from_clone_to_execve_the_init_stays_within_its_system_calls() {
    needs!(root, busybox, oci_verbs, strace);
    let calls = trace_of_run();
    let payload = calls.iter().position(|c| c.contains("\"/bin/true\"") && c.contains(" exec")).unwrap();
    let init = calls[payload].split_whitespace().next().unwrap();
    let of_init = |call: &&String| call.split_whitespace().next() == Some(init);
    let count = calls[..payload].iter().filter(of_init).count();
    assert!(count > 20, "strace saw almost nothing: {calls:#?}");
    let most = CALLS_OF_INIT.get();
    assert!(count <= most, "{count} system calls, allowed are {most}: {calls:#?}");
}

#[test]
fn a_create_stays_within_its_memory() {
    needs!(root, busybox, oci_verbs, gnu_time);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/true"]);
    let report = sandbox.path("peak");
    let program = Runtime::Ours.program();
    let (id, root, log) = (sandbox.id("peak"), sandbox.root(), sandbox.path("log"));
    let mut time = vec!["-f".as_ref(), "%M".as_ref(), "-o".as_ref(), report.as_os_str(), program.as_os_str()];
    time.extend(["--root".as_ref(), root.as_os_str(), "create".as_ref(), "--bundle".as_ref()]);
    time.extend([bundle.path().as_os_str(), id.as_ref()]);
    sandbox.in_view("/usr/bin/time".as_ref(), &time).output_into(&log).go().ok();
    let peak: u64 = fs::read_to_string(report).unwrap().trim().parse().unwrap();
    assert!(peak > 500, "{peak} KiB is no process");
    let most = PEAK_KIB.get();
    assert!(peak <= most, "{peak} KiB, allowed are {most}");
}

/// Memory that is a process's own share, in KiB.
fn pss(pid: i32) -> u64 {
    memory(pid, "Pss:")
}

/// Without the program's own pages: how much of these counts for a process depends on how many others run the program.
fn anonymous(pid: i32) -> u64 {
    memory(pid, "Pss_Anon:")
}

/// A line of proc_pid_smaps_rollup(5), in KiB.
fn memory(pid: i32, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
}

fn switches(pid: i32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    text.lines().filter(|line| line.contains("ctxt_switches")).collect()
}

/// Nobody wakes while nothing happens. What the last call left to do (to give memory back, to see that a connection has
/// begun to speak) is done once, some seconds later; whoever polls is never still.
#[track_caller]
fn assert_still<T: PartialEq + std::fmt::Debug>(time: std::time::Duration, wakes: impl Fn() -> T) {
    let mut seen = Vec::new();
    for _ in 0..3 {
        let before = wakes();
        std::thread::sleep(time);
        let after = wakes();
        if after == before {
            return;
        }
        seen.push((before, after));
    }
    panic!("nothing happens, but somebody wakes: {seen:#?}");
}

#[test]
fn a_hundred_containers_cost_little_memory_and_wake_nobody() {
    needs!(root, busybox, launch_verb);
    const MANY: u64 = 100;
    let kept = Kept::new();
    kept.launch("first", &["--rm"], "exit 0");
    wait_until("it to be gone", || kept.client().list().unwrap().is_empty().then_some(()));
    let (keeper, standby) = kept.keeper();
    let empty = pss(keeper) + pss(standby);
    let names: Vec<String> = (0..MANY).map(|n| format!("box{n}")).collect();
    for name in &names {
        kept.launch(name, &[], "exec sleep 1000");
    }
    let full = pss(keeper) + pss(standby);
    assert_still(std::time::Duration::from_secs(2), || [keeper, standby].map(switches));
    println!("empty {empty} KiB, with {MANY} containers {full} KiB");
    assert!(empty <= KEEPER_KIB.get(), "{empty} KiB empty");
    assert!(full.saturating_sub(empty) <= CONTAINER_KIB * MANY, "{empty} KiB empty, {full} KiB with {MANY}");
}

#[test]
fn an_idle_serve_takes_little_memory_and_does_not_wake() {
    needs!(root, launch_verb);
    let serve = Serve::new();
    for _ in 0..20 {
        serve.run(serve.runtime().status(StatusRequest { verbose: true })).unwrap();
        serve.run(serve.image().list_images(ListImagesRequest::default())).unwrap();
    }
    let pid = serve.pid();
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    wait_until("threads for work to end", || (threads() == OWN_THREADS).then_some(()));
    let memory = pss(pid);
    assert_still(std::time::Duration::from_secs(10), || switches_of_all(pid));
    println!("idle serve {memory} KiB");
    assert!(memory <= SERVE_KIB.get(), "{memory} KiB");
}

#[test]
fn a_hundred_pods_cost_little_memory_and_wake_nobody() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    for number in 0..100 {
        let pod = pod_on_host(&format!("pod{number}"));
        let id = serve.run_pod(&pod);
        serve.run_container(&id, &pod, &container(&pod, "box", "exec sleep 1000"));
    }
    let pid = serve.pid();
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).unwrap().count();
    wait_until("threads for work to end", || (threads() == OWN_THREADS).then_some(()));
    let (keeper, standby) = serve.kept().keeper();
    let (own, kept) = (pss(pid), pss(keeper) + pss(standby));
    println!("with 100 pods: serve {own} KiB, keeper and standby {kept} KiB");
    assert_still(std::time::Duration::from_secs(10), || {
        (switches_of_all(pid), [keeper, standby].map(switches))
    });
    assert!(own + kept <= NODE_KIB.get(), "serve {own} KiB, keeper and standby {kept} KiB");
    serve.removes_all();
}

/// How often any thread of a process went to sleep.
fn switches_of_all(pid: i32) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.map(|task| switches(task.file_name().to_str().unwrap().parse().unwrap())).collect()
}

#[test]
fn the_programs_are_small() {
    for (program, most) in [(keeper_program(), KEEPER_BYTES), (coracle_program(), CORACLE_BYTES)] {
        let size = fs::metadata(program).unwrap().len();
        let program = program.display();
        assert!(size > 100_000, "{program}: {size} bytes are no program");
        assert!(!are_dist_builds() || size <= most, "{program}: {size} bytes, allowed are {most}");
    }
}

/// What may stay of a flood when it is over, in KiB.
const FLOOD_KIB: Ceiling<u64> = Ceiling { dist: 1_500, unoptimised: 6_000 };

/// What a flood may take while it lasts, in KiB: the largest messages that are taken at a time, and their decoded form.
const IN_FLOOD_KIB: u64 = 96 << 10;

/// What an HTTP/2 client begins with: the preface and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A daemon, and what it takes when nothing happens.
struct Flooded {
    serve: Serve,
    idle: u64,
}

impl Flooded {
    fn new() -> Self {
        let serve = Serve::new();
        // One call, so that what the first of all allocates is there.
        serve.run(serve.runtime().status(StatusRequest::default())).unwrap();
        std::thread::sleep(std::time::Duration::from_secs(9));
        let idle = anonymous(serve.pid());
        Self { serve, idle }
    }

    #[track_caller]
    fn is_idle_again(&self) {
        let what = format!("the memory to come back to {} KiB", self.idle);
        let pid = self.serve.pid();
        wait_until(&what, || (anonymous(pid) <= self.idle + FLOOD_KIB.get()).then_some(()));
    }
}

#[test]
fn a_daemon_gives_back_what_connections_took() {
    needs!(root, busybox);
    let flooded = Flooded::new();
    let (mut connections, mut peak) = (Vec::new(), 0);
    for number in 0..2000 {
        let mut stream = std::os::unix::net::UnixStream::connect(flooded.serve.socket()).unwrap();
        let _ = std::io::Write::write_all(&mut stream, HELLO);
        connections.push(stream);
        if number % 100 == 0 {
            peak = peak.max(anonymous(flooded.serve.pid()));
        }
    }
    peak = peak.max(anonymous(flooded.serve.pid()));
    assert!(peak <= flooded.idle + (32 << 10), "2000 connections took {} KiB", peak - flooded.idle);
    drop(connections);
    flooded.is_idle_again();
}

#[test]
fn a_daemon_gives_back_what_large_messages_and_many_calls_took() {
    needs!(root, busybox);
    let flooded = Flooded::new();
    let (serve, pid) = (&flooded.serve, flooded.serve.pid());
    let mut large = pod_on_host("large");
    large.annotations.insert("large".into(), "x".repeat(15 << 20));
    // Without a name it is refused once it was read.
    large.metadata = None;
    let (done, ended) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let mut peak = 0;
        while ended.recv_timeout(std::time::Duration::from_millis(10)).is_err() {
            peak = peak.max(anonymous(pid));
        }
        peak
    });
    serve.block_on(async {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..16 {
            let request =
                coracle_cri::v1::RunPodSandboxRequest { config: Some(large.clone()), ..Default::default() };
            let mut runtime = serve.runtime();
            calls.spawn(async move { runtime.run_pod_sandbox(request).await.unwrap_err() });
        }
        while let Some(error) = calls.join_next().await {
            let error = error.unwrap();
            let is_expected = matches!(error.code(), Code::InvalidArgument | Code::ResourceExhausted);
            assert!(is_expected, "{error:?}");
        }
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..3000 {
            let mut runtime = serve.runtime();
            calls.spawn(async move { runtime.status(StatusRequest::default()).await });
        }
        while let Some(answer) = calls.join_next().await {
            answer.unwrap().unwrap();
        }
    });
    done.send(()).unwrap();
    let peak = watch.join().unwrap();
    assert!(peak <= flooded.idle + IN_FLOOD_KIB, "large messages took {} KiB", peak - flooded.idle);
    flooded.is_idle_again();
}

#[test]
fn a_daemon_gives_back_what_a_burst_of_pods_took() {
    needs!(root, busybox, launch_verb);
    let flooded = Flooded::new();
    let serve = &flooded.serve;
    let resident = || memory(serve.pid(), "Rss:");
    let before = resident();
    for number in 0..50 {
        let pod = serve.logged(pod_on_host(&format!("burst{number}")));
        let id = serve.run_pod(&pod);
        let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
        assert_eq!(serve.output_in(&c, "head -c 100000 /dev/zero | wc -c"), "100000");
        serve.try_stop_pod(&id).unwrap();
        serve.try_remove_pod(&id).unwrap();
    }
    flooded.is_idle_again();
    // With the pages of the program that only the burst has used.
    let what = format!("{} KiB of resident memory to come back to {before}", resident());
    wait_until(&what, || (resident() <= before + FLOOD_KIB.get()).then_some(()));
}

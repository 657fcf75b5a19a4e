//! What pods survive: the end of the daemon at any moment, of the keeper, of everything.

use std::fs;
use std::time::Duration;

use coracle::linux::proc_stat::ProcStat;
use coracle_cri::v1::*;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::set_up::{Catcher, Wanted, children, is_wanted};
use crate::support::{Serve, container, kernel_tells_ends, pod_on_host, pod_with, wait_until};

#[test]
fn a_restart_finds_everything_and_what_happened_meanwhile() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("kept"));
    let id = serve.run_pod(&pod);
    let runs =
        serve.run_container(&id, &pod, &container(&pod, "runs", "while :; do echo tick; sleep 0.05; done"));
    let ends = serve.run_container(
        &id,
        &pod,
        &container(&pod, "ends", "while [ ! -e /tmp/go ]; do sleep 0.02; done; exit 5"),
    );
    let only_made = serve.try_create(&id, &pod, &container(&pod, "made", "sleep 100")).unwrap();
    serve.output_in(&ends, "mkdir -p /tmp");
    let pid = |id: &str| {
        let text = fs::read_to_string(serve.sandbox().root().join(id).join("state.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["init_process_pid"].as_i64().unwrap()
    };
    let (pid_of_ends, before) = (pid(&ends), serve.try_status(&runs).unwrap());
    serve.kill();
    fs::write(format!("/proc/{pid_of_ends}/root/tmp/go"), "").unwrap();
    wait_until("the container to end", || {
        (!fs::exists(format!("/proc/{pid_of_ends}")).unwrap()).then_some(())
    });
    let lines = serve.log_of("runs").len();
    wait_until("the log to go on", || (serve.log_of("runs").len() > lines).then_some(()));
    serve.start();
    assert_eq!(serve.try_status(&runs).unwrap(), before);
    let status = serve.exited(&ends);
    assert_eq!((status.exit_code, status.reason.as_str()), (5, "Error"));
    // A container that was made before is started after.
    assert_eq!(serve.container_state(&only_made), ContainerState::ContainerCreated);
    serve.try_start(&only_made).unwrap();
    assert_eq!(serve.output_in(&only_made, "echo here"), "here");
    serve.removes_all();
}

#[test]
fn killed_at_any_moment_nothing_is_lost_or_left() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    // Each round is cut a little later than the one before.
    for round in 0..16_u32 {
        let pod = serve.logged(pod_on_host(&format!("round{round}")));
        let pid = serve.pid();
        let killer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_micros(u64::from(round) * 1700));
            kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL)
        });
        let run = || -> Result<(), tonic::Status> {
            let id = serve.try_run_pod(&pod)?;
            let c = serve.try_create(&id, &pod, &container(&pod, "box", "sleep 1000"))?;
            serve.try_start(&c)?;
            serve.try_stop(&c, 0)?;
            serve.try_remove(&c)?;
            serve.try_stop_pod(&id)?;
            serve.try_remove_pod(&id)
        };
        let _ = run();
        killer.join().unwrap().unwrap();
        serve.wait();
        serve.start();
        // As kubelet does: what there is of the pod goes, and it is tried again.
        for id in serve.all().0 {
            serve.try_stop_pod(&id).unwrap();
            serve.try_remove_pod(&id).unwrap();
        }
        let id = serve.run_pod(&pod);
        let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
        assert_eq!(serve.output_in(&c, "echo fine"), "fine", "round {round}");
        serve.removes_all();
    }
}

#[test]
fn a_keeper_that_is_killed_takes_no_pod_with_it() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("kept"));
    let id = serve.run_pod(&pod);
    let c =
        serve.run_container(&id, &pod, &container(&pod, "box", "while :; do echo tick; sleep 0.05; done"));
    let (keeper, _) = serve.kept().keeper();
    kill_process(Pid::from_raw(keeper).unwrap(), Signal::KILL).unwrap();
    let lines = serve.log_of("box").len();
    wait_until("the log to go on", || (serve.log_of("box").len() > lines).then_some(()));
    assert_eq!(serve.container_state(&c), ContainerState::ContainerRunning);
    // The end is heard from the next keeper.
    serve.try_stop(&c, 0).unwrap();
    assert_eq!(serve.container_state(&c), ContainerState::ContainerExited);
    let other = serve.run_container(&id, &pod, &container(&pod, "other", "exit 0"));
    let status = serve.exited(&other);
    assert_eq!((status.exit_code, status.reason.as_str()), (0, "Completed"));
    serve.removes_all();
}

#[test]
fn after_a_reboot_the_writable_layers_of_pods_are_gone() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("gone"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "echo > /file; sleep 1000"));
    assert!(serve.path("store/containers").join(&c).exists());
    serve.try_stop(&c, 0).unwrap();
    let state = serve.sandbox().root().join(&c);
    wait_until("its state to be removed", || (!state.exists()).then_some(()));
    serve.stop();
    // What is in memory is gone, and no mount survives.
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let own = serve.kept().run_dir().join("pods");
    for mount in mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| at.starts_with(own.to_str().unwrap()))
    {
        rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    fs::remove_dir_all(serve.kept().run_dir().join("pods")).unwrap();
    serve.start();
    assert_eq!(serve.all(), (Vec::new(), Vec::new()));
    assert!(!serve.path("store/containers").join(&c).exists());
    serve.is_clean();
}

type Start = tokio::task::JoinHandle<Result<tonic::Response<StartContainerResponse>, tonic::Status>>;

/// A start that was caught in its midst.
struct Interrupted {
    serve: Serve,
    pod: String,
    container: String,
    keeper: i32,
    catcher: Catcher,
    call: Start,
}

impl Interrupted {
    /// Starts containers with this script until one is caught while it is set up.
    #[track_caller]
    fn new(script: &str, wanted: Wanted) -> Self {
        Self::in_pod(pod_on_host("interrupted"), script, wanted)
    }

    /// The same in a pod that shares its PID namespace: the container goes on as a copy of its first process.
    #[track_caller]
    fn with_shared_pids(script: &str, wanted: Wanted) -> Self {
        let options = NamespaceOption {
            network: NamespaceMode::Node.into(),
            pid: NamespaceMode::Pod.into(),
            ..Default::default()
        };
        Self::in_pod(pod_with("interrupted", options), script, wanted)
    }

    #[track_caller]
    fn in_pod(config: PodSandboxConfig, script: &str, wanted: Wanted) -> Self {
        let serve = Serve::new();
        let config = serve.logged(config);
        let pod = serve.run_pod(&config);
        let (keeper, _) = serve.kept().keeper();
        for _ in 0..100 {
            let _ = fs::remove_file(serve.path("logs/box.log"));
            let container = serve.try_create(&pod, &config, &container(&config, "box", script)).unwrap();
            let catcher = Catcher::new(keeper, wanted, 1, &children(keeper));
            let (mut runtime, container_id) = (serve.runtime(), container.clone());
            let call = async move { runtime.start_container(StartContainerRequest { container_id }).await };
            let call = serve.begin(call);
            while catcher.caught().is_empty() && !call.is_finished() {
                serve.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
            }
            if !catcher.caught().is_empty() {
                return Self { serve, pod, container, keeper, catcher, call };
            }
            serve.try_remove(&container).unwrap();
        }
        panic!("no process was caught while it was set up");
    }

    /// Waits for something while the connection to the daemon is attended.
    #[track_caller]
    fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
        wait_until(what, || {
            self.serve.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
            ask()
        })
    }

    /// What is known of the process that was caught.
    fn stat(&self) -> Option<ProcStat> {
        ProcStat::read(self.catcher.wait()).unwrap()
    }

    /// Stops the keeper once it has told the daemon of the process: before that, the daemon waits for the keeper, and the
    /// process for the daemon.
    fn stop_keeper(&self) {
        let known = format!("Pid:\t{}", self.catcher.wait());
        let fds = format!("/proc/{}/fdinfo", self.serve.pid());
        self.until("the daemon to know the process", || {
            let infos =
                fs::read_dir(&fds).unwrap().flatten().filter_map(|fd| fs::read_to_string(fd.path()).ok());
            infos.into_iter().any(|info| info.lines().any(|line| line == known)).then_some(())
        });
        kill(self.keeper, Signal::STOP);
    }

    fn kill_keeper(&self) {
        kill(self.keeper, Signal::KILL);
        let gone = || !fs::exists(format!("/proc/{}/exe", self.keeper)).unwrap();
        wait_until("the keeper to be gone", || gone().then_some(()));
    }

    /// Its start goes well.
    #[track_caller]
    fn goes_well(&mut self) {
        let answer = self.serve.block_on(&mut self.call).unwrap();
        answer.unwrap_or_else(|error| panic!("{error}"));
    }

    /// It ends with this code, and has logged this once.
    #[track_caller]
    fn ends(self, code: i32, log: &[&str]) {
        self.ends_with_one_of(&[code], log);
    }

    /// The same after its keeper was killed: the kernel may not report to the next one, which is not its parent, how it
    /// ended.
    #[track_caller]
    fn ends_without_its_parent(self, code: i32, log: &[&str]) {
        let codes = if kernel_tells_ends() { vec![code] } else { vec![code, 255] };
        self.ends_with_one_of(&codes, log);
    }

    #[track_caller]
    fn ends_with_one_of(self, codes: &[i32], log: &[&str]) {
        drop(self.catcher);
        let status = self.serve.exited(&self.container);
        assert!(codes.contains(&status.exit_code), "{status:?}");
        assert_eq!(status.message, "", "{status:?}");
        assert_eq!(self.serve.log_of("box"), log);
        assert!(status.started_at > 0 && status.started_at <= status.finished_at, "{status:?}");
        self.serve.try_stop_pod(&self.pod).unwrap();
        self.serve.removes_all();
    }
}

fn kill(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

const SCRIPT: &str = "echo begun; sleep 0.3; echo done; exit 7";
const LOG: [&str; 2] = ["stdout F begun", "stdout F done"];

#[test]
fn a_start_that_a_kill_of_the_daemon_interrupted_was_never_tried_or_went_well() {
    needs!(root, busybox, launch_verb);
    // Whoever stopped the process lets it go on, or does not.
    for goes_on in [true, false] {
        let start = Interrupted::new(SCRIPT, Wanted::Inside);
        start.serve.kill();
        if goes_on {
            start.catcher.let_go();
        }
        start.serve.start();
        match start.serve.container_state(&start.container) {
            ContainerState::ContainerCreated => start.serve.try_start(&start.container).unwrap(),
            ContainerState::ContainerRunning if goes_on => {}
            other => panic!("{other:?}: its program has not run"),
        }
        start.ends(7, &LOG);
    }
}

#[test]
fn a_program_that_ended_while_its_daemon_was_killed_is_not_run_again() {
    needs!(root, busybox, launch_verb);
    let start = Interrupted::new("echo begun; exit 3", Wanted::Inside);
    // The keeper sees nothing until both are gone.
    start.stop_keeper();
    start.catcher.let_go();
    let stat = start.until("the program to end", || start.stat().filter(|stat| stat.is_dead()));
    assert!(stat.has_executed, "{stat:?}");
    start.serve.signal(Signal::KILL);
    kill(start.keeper, Signal::CONT);
    start.serve.wait();
    start.serve.start();
    start.ends(3, &LOG[..1]);
}

#[test]
fn a_start_outlives_the_keeper_that_was_asked_for_it() {
    needs!(root, busybox, launch_verb);
    for wanted in [Wanted::Inside, Wanted::Outside] {
        let mut start = Interrupted::new(SCRIPT, wanted);
        start.kill_keeper();
        start.catcher.let_go();
        start.goes_well();
        start.ends_without_its_parent(7, &LOG);
    }
}

#[test]
fn a_start_in_a_shared_pid_namespace_outlives_the_keeper_that_was_asked_for_it() {
    needs!(root, busybox, launch_verb);
    for wanted in [Wanted::Inside, Wanted::Outside] {
        let mut start = Interrupted::with_shared_pids(SCRIPT, wanted);
        start.kill_keeper();
        start.catcher.let_go();
        start.goes_well();
        start.ends_without_its_parent(7, &LOG);
    }
}

#[test]
fn a_keeper_that_is_killed_before_it_hears_that_a_launch_was_good_loses_nothing() {
    needs!(root, busybox, launch_verb);
    // The program is still running by then, or it has ended.
    for (script, code, log) in [(SCRIPT, 7, &LOG[..]), ("echo begun; exit 3", 3, &LOG[..1])] {
        let mut start = Interrupted::new(script, Wanted::Inside);
        start.stop_keeper();
        start.catcher.let_go();
        start.until("the program to run", || {
            start.stat().filter(|stat| stat.has_executed && (code == 7 || stat.is_dead()))
        });
        start.kill_keeper();
        start.goes_well();
        start.ends_without_its_parent(code, log);
    }
}

#[test]
fn a_command_that_the_daemon_left_behind_is_ended_by_the_next() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = pod_on_host("left");
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    let (mut runtime, container_id) = (serve.runtime(), c.clone());
    let cmd = ["/bin/sh", "-c", "sleep 4321 & sleep 4322"].map(str::to_owned).into();
    let call = async move { runtime.exec_sync(ExecSyncRequest { container_id, cmd, timeout: 0 }).await };
    let _call = serve.begin(call);
    let commands = || -> Vec<String> {
        let inside = serve.try_exec(&c, "ps -o args", None).unwrap().stdout;
        let text = String::from_utf8(inside).unwrap();
        text.lines().filter(|line| line.contains("sleep 432")).map(str::to_owned).collect()
    };
    wait_until("the command to run", || (commands().len() >= 2).then_some(()));
    serve.kill();
    serve.start();
    assert_eq!(commands(), [""; 0]);
    assert_eq!(serve.container_state(&c), ContainerState::ContainerRunning);
    serve.removes_all();
}

/// Children of a process that have ended and that it has not reaped.
fn zombies(parent: i32) -> Vec<i32> {
    let is_dead = |pid: &i32| ProcStat::read(*pid).unwrap().is_some_and(ProcStat::is_dead);
    children(parent).into_iter().filter(is_dead).collect()
}

#[test]
fn a_copy_inside_a_shared_namespace_whose_daemon_was_killed_keeps_no_pod_from_ending() {
    needs!(root, busybox, launch_verb);
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    };
    let serve = Serve::new();
    for round in 0..10 {
        let config = pod_with(&format!("shared{round}"), options.clone());
        let pod = serve.run_pod(&config);
        let (keeper, _) = serve.kept().keeper();
        let before = children(keeper);
        let c = serve.try_create(&pod, &config, &container(&config, "box", "sleep 1000")).unwrap();
        let mut runtime = serve.runtime();
        let call = async move { runtime.start_container(StartContainerRequest { container_id: c }).await };
        let _call = serve.begin(call);
        serve.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
        // The daemon goes on in small steps, and is killed as soon as the copy is there that it has to report.
        for _ in 0..2000 {
            serve.signal(Signal::STOP);
            let is_inside = |pid: &i32| !before.contains(pid) && is_wanted(*pid, Wanted::Inside);
            if children(keeper).iter().any(is_inside) {
                break;
            }
            serve.signal(Signal::CONT);
            std::thread::sleep(Duration::from_micros(200));
        }
        serve.signal(Signal::KILL);
        serve.wait();
        wait_until("the keeper to have reaped all its children", || zombies(keeper).is_empty().then_some(()));
        serve.start();
        serve.try_stop_pod(&pod).unwrap();
        serve.try_remove_pod(&pod).unwrap();
    }
    serve.removes_all();
}

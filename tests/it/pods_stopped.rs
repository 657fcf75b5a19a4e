//! Pods in which somebody stops the processes that are set up: neither the node nor the other calls wait for that.

use std::time::{Duration, Instant};

use coracle_cri::v1::*;
use tonic::{Code, Status};

use crate::support::set_up::{Catcher, Wanted, children};
use crate::support::{Serve, container, pod_on_host, pod_with};

/// What a call takes at most that waits for nobody, on a machine with much else to do.
const SOON: Duration = Duration::from_secs(10);

type Call<T> = tokio::task::JoinHandle<Result<tonic::Response<T>, Status>>;

impl Serve {
    /// StartContainer, whose answer is not waited for.
    fn begin_start(&self, id: &str) -> Call<StartContainerResponse> {
        let (mut runtime, id) = (self.runtime(), id.to_owned());
        let call = async move { runtime.start_container(StartContainerRequest { container_id: id }).await };
        self.begin(call)
    }

    /// ExecSync, whose answer is not waited for.
    fn begin_exec(&self, id: &str, timeout: i64) -> Call<ExecSyncResponse> {
        let (mut runtime, container_id) = (self.runtime(), id.to_owned());
        let cmd = vec!["/bin/true".to_owned()];
        let call = async move { runtime.exec_sync(ExecSyncRequest { container_id, cmd, timeout }).await };
        self.begin(call)
    }

    /// Starts containers until one is caught while it is set up: its id, and the call.
    #[track_caller]
    fn start_until_caught(
        &self,
        id: &str,
        pod: &PodSandboxConfig,
    ) -> (String, Call<StartContainerResponse>, Catcher) {
        let (keeper, _) = self.kept().keeper();
        for _ in 0..100 {
            let c = self.try_create(id, pod, &container(pod, "hangs", "sleep 1000")).unwrap();
            let catcher = Catcher::new(keeper, Wanted::Inside, 1, &children(keeper));
            let call = self.begin_start(&c);
            while catcher.caught().is_empty() && !call.is_finished() {
                self.block_on(async { tokio::time::sleep(Duration::from_millis(1)).await });
            }
            if !catcher.caught().is_empty() {
                return (c, call, catcher);
            }
            self.try_remove(&c).unwrap();
        }
        panic!("no process was caught while it was set up");
    }

    /// All that kubelet reads is answered soon.
    #[track_caller]
    fn answers_what_is_read(&self, container: &str) {
        soon("Version", || drop(self.run(self.runtime().version(VersionRequest::default())).unwrap()));
        soon("Status", || drop(self.run(self.runtime().status(StatusRequest::default())).unwrap()));
        soon("List", || drop(self.all()));
        soon("ContainerStatus", || drop(self.try_status(container).unwrap()));
        let images = ListImagesRequest::default();
        soon("ListImages", || drop(self.run(self.image().list_images(images)).unwrap()));
        let stats = ListContainerStatsRequest::default();
        soon("Stats", || drop(self.run(self.runtime().list_container_stats(stats)).unwrap()));
    }
}

#[track_caller]
fn soon<T>(what: &str, call: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let answer = call();
    assert!(began.elapsed() < SOON, "{what} took {:?}", began.elapsed());
    answer
}

fn shared_pids(name: &str) -> PodSandboxConfig {
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    };
    pod_with(name, options)
}

#[test]
fn a_start_that_hangs_ends_when_its_container_is_stopped() {
    needs!(root, busybox, launch_verb);
    for pod in [pod_on_host("own"), shared_pids("shared")] {
        let serve = Serve::new();
        let id = serve.run_pod(&pod);
        // Its end races with what the daemon and the keeper say of it to each other.
        for _ in 0..10 {
            let (c, start, _catcher) = serve.start_until_caught(&id, &pod);
            serve.answers_what_is_read(&c);
            soon("StopContainer", || serve.try_stop(&c, 0).unwrap());
            let answer = serve.block_on(start).unwrap();
            assert!(answer.is_err(), "{answer:?}");
            let status = serve.try_status(&c).unwrap();
            assert_eq!(
                (status.state(), status.reason.as_str()),
                (ContainerState::ContainerExited, "StartError")
            );
            soon("RemoveContainer", || serve.try_remove(&c).unwrap());
        }
        serve.removes_all();
    }
}

#[test]
fn a_pod_is_stopped_and_removed_while_a_start_in_it_hangs() {
    needs!(root, busybox, launch_verb);
    for pod in [pod_on_host("own"), shared_pids("shared")] {
        let serve = Serve::new();
        let id = serve.run_pod(&pod);
        let waits = serve.try_create(&id, &pod, &container(&pod, "waits", "sleep 1000")).unwrap();
        let (_, start, _catcher) = serve.start_until_caught(&id, &pod);
        soon("StopPodSandbox", || serve.try_stop_pod(&id).unwrap());
        assert!(serve.block_on(start).unwrap().is_err());
        let late = serve.try_start(&waits).unwrap_err();
        assert_eq!(late.code(), Code::FailedPrecondition, "{late}");
        soon("RemovePodSandbox", || serve.try_remove_pod(&id).unwrap());
        serve.removes_all();
    }
}

#[test]
fn commands_that_hang_hold_up_neither_their_container_nor_the_node() {
    needs!(root, busybox, launch_verb);
    // More than are worked on at a time.
    const COUNT: usize = 40;
    let serve = Serve::new();
    let pod = pod_on_host("commands");
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    let other = serve.run_container(&id, &pod, &container(&pod, "other", "sleep 1000"));
    let catcher = Catcher::new(serve.pid(), Wanted::Inside, COUNT, &[]);
    let mut calls = Vec::new();
    while catcher.caught().len() < COUNT {
        assert!(calls.len() < 100 * COUNT, "{} of {} were caught", catcher.caught().len(), calls.len());
        calls.push(serve.begin_exec(&c, 0));
        serve.block_on(async { tokio::time::sleep(Duration::from_millis(20)).await });
    }
    serve.answers_what_is_read(&c);
    assert_eq!(soon("ExecSync of another", || serve.output_in(&other, "echo here")), "here");
    soon("StopContainer of another", || serve.try_stop(&other, 0).unwrap());
    soon("StopContainer", || serve.try_stop(&c, 0).unwrap());
    for call in calls {
        soon("ExecSync that hung", || drop(serve.block_on(call).unwrap()));
    }
    soon("StopPodSandbox", || serve.try_stop_pod(&id).unwrap());
    serve.removes_all();
}

#[test]
fn the_time_of_a_command_is_over_while_it_is_set_up() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = pod_on_host("commands");
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    let catcher = Catcher::new(serve.pid(), Wanted::Inside, 1, &[]);
    for _ in 0..100 {
        let call = serve.begin_exec(&c, 2);
        let answer = soon("ExecSync", || serve.block_on(call).unwrap());
        if !catcher.caught().is_empty() {
            assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
            // What was stopped is gone, and the container is as it was.
            assert!(coracle::linux::proc_stat::ProcStat::read(catcher.wait()).unwrap().is_none());
            assert_eq!(serve.output_in(&c, "echo here"), "here");
            return serve.removes_all();
        }
    }
    panic!("no command was caught while it was set up");
}

#[test]
fn a_paused_container_is_stopped_and_its_pod_removed() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = pod_on_host("paused");
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    serve.sandbox().coracle(["pause", &c]).ok();
    let refused = soon("ExecSync", || serve.try_exec(&c, "echo", Some(Duration::from_secs(1))).unwrap_err());
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    soon("StopContainer", || serve.try_stop(&c, 1).unwrap());
    serve.removes_all();
}

#[test]
fn a_stop_that_nobody_waits_for_any_more_gives_its_thread_back() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = pod_on_host("patient");
    let id = serve.run_pod(&pod);
    let c =
        serve.run_container(&id, &pod, &container(&pod, "box", "trap '' TERM; while :; do sleep 0.1; done"));
    let (mut runtime, container_id) = (serve.runtime(), c.clone());
    let request = StopContainerRequest { container_id, timeout: 1000 };
    let left = serve.block_on(async {
        tokio::time::timeout(Duration::from_millis(300), runtime.stop_container(request)).await
    });
    assert!(left.is_err());
    let tasks = || std::fs::read_dir(format!("/proc/{}/task", serve.pid())).unwrap().count();
    let busy = tasks();
    // Threads for calls are kept for five seconds.
    crate::support::wait_until("a thread to end", || {
        serve.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
        (tasks() < busy).then_some(())
    });
    soon("StopContainer", || serve.try_stop(&c, 0).unwrap());
    serve.removes_all();
}

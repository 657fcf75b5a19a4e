//! GetContainerEvents: what kubelet's evented PLEG is told.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use coracle_cri::v1::ContainerEventType::{
    ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted, ContainerStartedEvent as Started,
    ContainerStoppedEvent as Stopped,
};
use coracle_cri::v1::*;
use tonic::{Code, Status};

use crate::support::{Serve, code, container, pod_on_host, pod_with};

/// A listener, and what it has received so far.
struct Listener<'a> {
    serve: &'a Serve,
    received: Receiver<Result<ContainerEventResponse, Status>>,
}

impl<'a> Listener<'a> {
    #[track_caller]
    fn new(serve: &'a Serve) -> Self {
        let mut client = serve.runtime();
        let stream = serve.block_on(async move { client.get_container_events(GetEventsRequest {}).await });
        let mut stream = stream.unwrap().into_inner();
        let (sender, received) = channel();
        drop(serve.begin(async move {
            loop {
                let message = stream.message().await;
                let is_last = !matches!(message, Ok(Some(_)));
                if let Some(message) = message.transpose() {
                    drop(sender.send(message));
                }
                if is_last {
                    return;
                }
            }
        }));
        Self { serve, received }
    }

    #[track_caller]
    fn next(&self) -> Result<ContainerEventResponse, Status> {
        for _ in 0..2000 {
            if let Ok(message) = self.received.try_recv() {
                return message;
            }
            self.serve.block_on(async { tokio::time::sleep(Duration::from_millis(5)).await });
        }
        panic!("no event arrived");
    }

    /// The next `count` events.
    #[track_caller]
    fn take(&self, count: usize) -> Vec<ContainerEventResponse> {
        (0..count).map(|_| self.next().unwrap()).collect()
    }

    /// Nothing more was published.
    #[track_caller]
    fn is_quiet(&self) {
        self.serve.block_on(async { tokio::time::sleep(Duration::from_millis(300)).await });
        let more = self.received.try_recv();
        assert!(more.is_err(), "{more:?}");
    }
}

fn shown(events: &[ContainerEventResponse]) -> Vec<(ContainerEventType, &str)> {
    events.iter().map(|event| (event.container_event_type(), event.container_id.as_str())).collect()
}

/// What holds for every event.
#[track_caller]
fn is_well_formed(events: &[ContainerEventResponse], pod: &PodSandboxConfig) {
    for event in events {
        let status = event.pod_sandbox_status.as_ref().unwrap();
        assert_eq!(status.metadata, pod.metadata, "kubelet ignores an event without it");
        assert!(event.containers_statuses.iter().all(|status| status.metadata.is_some()));
    }
    let times: Vec<_> = events.iter().map(|event| event.created_at).collect();
    assert!(times.is_sorted_by(|a, b| a < b), "{times:?}");
    assert!(times[0] > 1_600_000_000_000_000_000, "nanoseconds since 1970");
}

#[test]
fn each_change_is_told_once_and_in_order() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let (one, two) = (Listener::new(&serve), Listener::new(&serve));
    let pod = serve.logged(pod_on_host("events"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "c", "exit 3"));
    let status = serve.exited(&c);
    serve.try_remove(&c).unwrap();
    let d = serve.run_container(&id, &pod, &container(&pod, "d", "sleep 1000"));
    let never = serve.try_create(&id, &pod, &container(&pod, "never", "true")).unwrap();
    serve.try_stop_pod(&id).unwrap();
    serve.try_stop_pod(&id).unwrap();
    serve.try_remove_pod(&id).unwrap();
    serve.try_remove_pod(&id).unwrap();

    let (id, c, d, never) = (id.as_str(), c.as_str(), d.as_str(), never.as_str());
    let events = one.take(14);
    is_well_formed(&events, &pod);
    let heard = two.take(14);
    assert_eq!(shown(&heard), shown(&events));
    let (lives, end) = events.split_at(11);
    assert_eq!(
        shown(lives),
        [
            (Created, id),
            (Started, id),
            (Created, c),
            (Started, c),
            (Stopped, c),
            (Deleted, c),
            (Created, d),
            (Started, d),
            (Created, never),
            (Stopped, d),
            (Stopped, id),
        ]
    );
    let mut removed = shown(&end[..2]);
    removed.sort_by_key(|(_, id)| *id == never);
    assert_eq!(removed, [(Deleted, d), (Deleted, never)]);
    assert_eq!(shown(&end[2..]), [(Deleted, id)]);
    // The pod's state in each event is that of its time.
    let states: Vec<_> =
        events.iter().map(|event| event.pod_sandbox_status.as_ref().unwrap().state()).collect();
    assert!(states[..9].iter().all(|state| *state == PodSandboxState::SandboxReady), "{states:?}");
    assert!(states[10..].iter().all(|state| *state == PodSandboxState::SandboxNotready), "{states:?}");
    assert_eq!(end[2].containers_statuses, []);
    assert_eq!(code(serve.try_status(c)), Code::NotFound);
    [one, two].iter().for_each(Listener::is_quiet);
    assert_eq!(status.exit_code, 3);
}

#[test]
fn the_last_event_of_a_container_has_its_exit() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let listener = Listener::new(&serve);
    let pod = serve.logged(pod_on_host("exits"));
    let id = serve.run_pod(&pod);
    let other = serve.run_container(&id, &pod, &container(&pod, "other", "sleep 1000"));
    let c = serve.run_container(&id, &pod, &container(&pod, "c", "exit 3"));
    let events = listener.take(7);
    is_well_formed(&events, &pod);
    let stopped = &events[6];
    assert_eq!(shown(&events[6..]), [(Stopped, c.as_str())]);
    let own = stopped.containers_statuses.iter().find(|status| status.id == c).unwrap();
    assert_eq!((own.state(), own.exit_code), (ContainerState::ContainerExited, 3));
    assert_eq!(own.reason, "Error");
    assert!(own.finished_at > 0);
    assert!(stopped.containers_statuses.iter().any(|s| s.id == other && s.state == 1), "those that run, too");
    listener.is_quiet();
    serve.removes_all();
}

#[test]
fn a_start_that_fails_is_told_as_a_stop_and_never_as_a_start() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let listener = Listener::new(&serve);
    let pod = serve.logged(pod_on_host("broken"));
    let id = serve.run_pod(&pod);
    let broken = ContainerConfig { command: vec!["/no/such".to_owned()], ..container(&pod, "broken", "") };
    let c = serve.try_create(&id, &pod, &broken).unwrap();
    serve.try_start(&c).unwrap_err();
    let events = listener.take(4);
    assert_eq!(shown(&events[2..]), [(Created, c.as_str()), (Stopped, c.as_str())]);
    let own = &events[3].containers_statuses[0];
    assert_eq!((own.exit_code, own.reason.as_str()), (128, "StartError"));
    serve.try_remove(&c).unwrap();
    assert_eq!(shown(&listener.take(1)), [(Deleted, c.as_str())]);
    serve.removes_all();
}

#[test]
fn a_pod_whose_init_process_dies_is_told_as_stopped() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    };
    let pod = serve.logged(pod_with("shared", options));
    let id = serve.run_pod(&pod);
    let listener = Listener::new(&serve);
    let request = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
    let status = serve.run(serve.runtime().pod_sandbox_status(request)).unwrap();
    let info: serde_json::Value = serde_json::from_str(&status.info["info"]).unwrap();
    let init = i32::try_from(info["pid"].as_i64().unwrap()).unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(init).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let events = listener.take(1);
    assert_eq!(shown(&events), [(Stopped, id.as_str())]);
    serve.try_stop_pod(&id).unwrap();
    serve.try_remove_pod(&id).unwrap();
    assert_eq!(shown(&listener.take(1)), [(Deleted, id.as_str())]);
    listener.is_quiet();
}

#[test]
fn the_stream_ends_with_the_daemon_and_the_next_one_tells_nothing_twice() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("restart"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "c", "sleep 1000"));
    let listener = Listener::new(&serve);
    serve.stop();
    assert_eq!(listener.next().unwrap_err().code(), Code::Unavailable);
    serve.start();
    let listener = Listener::new(&serve);
    listener.is_quiet();
    serve.try_stop(&c, 0).unwrap();
    assert_eq!(shown(&listener.take(1)), [(Stopped, c.as_str())]);
    serve.removes_all();
}

/// How far a container is in its life.
fn age(status: &ContainerStatus) -> u8 {
    match status.state() {
        ContainerState::ContainerCreated => 0,
        ContainerState::ContainerRunning => 1,
        ContainerState::ContainerExited | ContainerState::ContainerUnknown => 2,
    }
}

#[test]
fn concurrent_changes_are_told_once_each_and_never_with_an_older_state() {
    needs!(root, busybox, launch_verb);
    const CONTAINERS: usize = 12;
    let serve = Serve::new();
    let listener = Listener::new(&serve);
    let pod = serve.logged(pod_on_host("many"));
    let id = serve.run_pod(&pod);
    let lives: Vec<_> = (0..CONTAINERS)
        .map(|number| {
            // Some end by themselves, at about the time when their start is answered.
            let script = if number % 2 == 0 { "true" } else { "sleep 1000" };
            let create = CreateContainerRequest {
                pod_sandbox_id: id.clone(),
                config: Some(container(&pod, &format!("c{number}"), script)),
                sandbox_config: Some(pod.clone()),
            };
            let mut client = serve.runtime();
            serve.begin(async move {
                let container_id = client.create_container(create).await.unwrap().into_inner().container_id;
                let start = StartContainerRequest { container_id: container_id.clone() };
                client.start_container(start).await.unwrap();
                let stop = StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
                client.stop_container(stop).await.unwrap();
                if number % 3 == 0 {
                    client.remove_container(RemoveContainerRequest { container_id }).await.unwrap();
                }
            })
        })
        .collect();
    lives.into_iter().for_each(|life| serve.block_on(life).unwrap());
    serve.try_stop_pod(&id).unwrap();
    serve.try_remove_pod(&id).unwrap();
    let events = listener.take(4 * (CONTAINERS + 1));
    listener.is_quiet();
    is_well_formed(&events, &pod);
    let (mut told, mut ages) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
    for event in &events {
        told.entry(event.container_id.as_str()).or_default().push(event.container_event_type());
        for status in &event.containers_statuses {
            let before = ages.insert(status.id.as_str(), age(status)).unwrap_or(0);
            assert!(before <= age(status), "{} is older in a later event", status.id);
        }
    }
    assert_eq!(told.len(), CONTAINERS + 1);
    for (own, kinds) in told {
        assert_eq!(kinds, [Created, Started, Stopped, Deleted], "{own}");
    }
    let position = |kind, own: &str| shown(&events).iter().position(|event| *event == (kind, own)).unwrap();
    let stopped = position(Stopped, &id);
    assert!(
        events[..stopped].iter().filter(|event| event.container_event_type() == Stopped).count()
            == CONTAINERS
    );
    assert_eq!(position(Deleted, &id), events.len() - 1);
}

/// How often the threads of a process have slept or were interrupted so far.
fn switches(pid: i32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let of_one = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let counts = text.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        counts.map(|(_, count)| count.trim().parse::<u64>().unwrap()).sum::<u64>()
    };
    tasks.map(|task| of_one(task.path())).sum()
}

#[test]
fn listeners_cost_no_wake_up_while_nothing_happens() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    let metrics = serve.path("metrics.sock");
    serve.configure(&format!(
        "[metrics]\ncontainerd_socket = {:?}\nlisten = {:?}\n",
        serve.path("containerd.sock").display().to_string(),
        format!("unix:{}", metrics.display()),
    ));
    serve.start();
    let pod = serve.logged(pod_on_host("idle"));
    let id = serve.run_pod(&pod);
    serve.run_container(&id, &pod, &container(&pod, "c", "sleep 1000"));
    let listener = Listener::new(&serve);
    let _connected = std::os::unix::net::UnixStream::connect(serve.path("containerd.sock")).unwrap();
    // Threads end, and memory is given back, some seconds after the last call. A client must send its first bytes in 10 s.
    let sleep = |seconds| std::thread::sleep(Duration::from_secs(seconds));
    sleep(12);
    let before = switches(serve.pid());
    sleep(4);
    assert_eq!(switches(serve.pid()) - before, 0);
    serve.removes_all();
    assert_eq!(listener.take(1)[0].container_event_type(), Stopped);
}

//! Hostile pods: what a container can do to its node through the processes that the daemon starts beside it or in it.

use std::time::{Duration, Instant};

use coracle_cri::v1::*;

use super::exec::TRACEABLE;
use super::report::Role;
use super::spy::note;
use super::{Spy, rounds};
use crate::support::{Serve, container, pod_on_host, pod_with};

/// Longer than a call takes whatever hangs beside it, on a loaded machine.
const SOON: Duration = Duration::from_secs(15);

fn security(container: &mut ContainerConfig) -> &mut LinuxContainerSecurityContext {
    container.linux.as_mut().unwrap().security_context.as_mut().unwrap()
}

fn with_tracing(mut container: ContainerConfig) -> ContainerConfig {
    security(&mut container).capabilities =
        Some(Capability { add_capabilities: vec!["SYS_PTRACE".to_owned()], ..Default::default() });
    container
}

fn as_user(mut container: ContainerConfig, uid: i64) -> ContainerConfig {
    security(&mut container).run_as_user = Some(Int64Value { value: uid });
    container
}

/// A pod on the node's network whose containers see each other.
fn sharing(name: &str) -> PodSandboxConfig {
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    };
    pod_with(name, options)
}

fn mapped(name: &str, pid: NamespaceMode) -> PodSandboxConfig {
    let mapping = || vec![IdMapping { host_id: 200_000, container_id: 0, length: 65_536 }];
    let users = UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() };
    pod_with(name, NamespaceOption { pid: pid.into(), userns_options: Some(users), ..Default::default() })
}

/// A pod with an attacker in it, which waits.
struct Attacked<'a> {
    serve: &'a Serve,
    pod: PodSandboxConfig,
    id: String,
    attacker: String,
    spy: Spy,
}

impl<'a> Attacked<'a> {
    fn new(
        serve: &'a Serve,
        pod: PodSandboxConfig,
        role: Role,
        change: impl FnOnce(ContainerConfig) -> ContainerConfig,
    ) -> Self {
        let pod = serve.logged(pod);
        let id = serve.run_pod(&pod);
        let name = pod.metadata.as_ref().unwrap().name.clone();
        let spy = Spy::new(serve.sandbox(), &format!("spy-{name}"), role);
        let wished = change(spy.in_pod(container(&pod, "attacker", "")));
        let attacker = serve.run_container(&id, &pod, &wished);
        spy.ready();
        Self { serve, pod, id, attacker, spy }
    }

    fn execs(&self) {
        for _ in 0..rounds() {
            let answer = self.serve.try_exec(&self.attacker, "exit 3", None).unwrap();
            assert_eq!(answer.exit_code, 3);
        }
    }

    fn neighbours(&self) {
        for round in 0..rounds() {
            let wished = container(&self.pod, &format!("next{round}"), "exit 3");
            let id = self.serve.run_container(&self.id, &self.pod, &wished);
            assert_eq!(self.serve.exited(&id).exit_code, 3);
            self.serve.try_remove(&id).unwrap();
        }
    }
}

#[test]
fn nobody_in_a_pods_user_namespace_takes_over_what_the_daemon_starts_there() {
    needs!(root, busybox, launch_verb, cni_plugins, user_namespaces);
    let serve = crate::pods_network::node();
    let own = Attacked::new(&serve, mapped("own", NamespaceMode::Container), Role::Spy, with_tracing);
    own.execs();
    let shared = Attacked::new(&serve, mapped("shared", NamespaceMode::Pod), Role::Spy, with_tracing);
    shared.neighbours();
    let reports = [("ExecSync", own.spy.stop()), ("starts", shared.spy.stop())];
    reports.iter().for_each(|(what, report)| note(&format!("{what}: {report:?}")));
    reports.iter().for_each(|(what, report)| report.assert_in_vain(what, rounds()));
    serve.removes_all();
}

#[test]
fn nobody_in_a_pod_sees_into_what_the_daemon_starts_there() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    for (name, uid) in [("root", 0), ("user", 1000)] {
        let own = Attacked::new(&serve, pod_on_host(&format!("{name}-own")), Role::Spy, |c| as_user(c, uid));
        own.execs();
        own.spy.stop().assert_in_vain(&format!("ExecSync beside {name}"), rounds());
        let shared =
            Attacked::new(&serve, sharing(&format!("{name}-shared")), Role::Spy, |c| as_user(c, uid));
        shared.neighbours();
        shared.spy.stop().assert_in_vain(&format!("starts beside {name}"), rounds());
    }
    serve.removes_all();
}

#[test]
fn who_may_trace_in_a_pod_finds_nothing_of_the_host() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let own = Attacked::new(&serve, pod_on_host("own"), Role::Spy, with_tracing);
    own.execs();
    let shared = Attacked::new(&serve, sharing("shared"), Role::Spy, with_tracing);
    shared.neighbours();
    let harmless = [&TRACEABLE[..], &["capabilities"]].concat();
    let (own, shared) = (own.spy.stop(), shared.spy.stop());
    note(&format!("ExecSync: {own:?}"));
    shared.assert_only(&harmless, "starts", rounds());
    own.assert_only(&TRACEABLE, "ExecSync", rounds());
    serve.removes_all();
}

/// With the node's PID namespace a container sees the daemon, the keeper and all that they start; it must not see into
/// them.
#[test]
fn a_pod_in_the_nodes_pid_namespace_sees_into_nothing_of_ours() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Node.into(),
        ..NamespaceOption::default()
    };
    let pod = serve.logged(pod_with("host", options));
    let id = serve.run_pod(&pod);
    let spy = Spy::new(serve.sandbox(), "spy", Role::Spy).only(serve.sandbox().mark());
    serve.run_container(&id, &pod, &spy.in_pod(container(&pod, "attacker", "")));
    spy.ready();
    let other = Attacked::new(&serve, sharing("other"), Role::Spy, |c| c);
    other.execs();
    other.neighbours();
    spy.stop().assert_in_vain("on the node", rounds());
    serve.removes_all();
}

/// Whether calls that only read are answered at once, and whether the pod can be ended.
fn still_serves(attacked: &Attacked<'_>, what: &str) {
    let (serve, begun) = (attacked.serve, Instant::now());
    serve.run(serve.runtime().version(VersionRequest::default())).unwrap();
    serve.all();
    serve.try_status(&attacked.attacker).unwrap();
    serve.try_pod_status(&attacked.id).unwrap();
    assert!(begun.elapsed() < SOON, "{what}: calls that read took {:?}", begun.elapsed());
    let _ = serve.try_stop(&attacked.attacker, 0);
    serve.try_stop_pod(&attacked.id).unwrap();
    serve.try_remove_pod(&attacked.id).unwrap();
    assert!(begun.elapsed() < 2 * SOON, "{what}: ending the pod took {:?}", begun.elapsed());
}

/// As kubelet does it: many probes at once, each with its own patience.
fn probe(attacked: &Attacked<'_>, count: usize) {
    let serve = attacked.serve;
    let calls = (0..count).map(|_| {
        let request = ExecSyncRequest {
            container_id: attacked.attacker.clone(),
            cmd: vec!["/bin/true".to_owned()],
            timeout: 1,
        };
        let mut client = serve.runtime();
        async move { tokio::time::timeout(Duration::from_secs(3), client.exec_sync(request)).await.is_ok() }
    });
    // Two that hang are enough.
    let mut hung = 0;
    for call in calls {
        hung += usize::from(!serve.block_on(call));
        if hung == 2 {
            break;
        }
    }
}

#[test]
fn a_container_that_stops_what_is_executed_in_it_hangs_nothing() {
    needs!(root, busybox, launch_verb);
    for uid in [1000, 0] {
        let serve = Serve::new();
        let attacked = Attacked::new(&serve, pod_on_host("stops"), Role::Stop, |c| as_user(c, uid));
        probe(&attacked, rounds());
        eprintln!("user {uid}: {:?}", attacked.spy.so_far());
        still_serves(&attacked, &format!("user {uid}"));
        serve.removes_all();
    }
}

#[test]
fn a_container_that_stops_its_neighbours_starts_hangs_nothing() {
    needs!(root, busybox, launch_verb);
    for uid in [1000, 0] {
        let serve = Serve::new();
        let attacked = Attacked::new(&serve, sharing("stops"), Role::Stop, |c| as_user(c, uid));
        for round in 0..rounds() {
            let wished = container(&attacked.pod, &format!("next{round}"), "exit 3");
            let wished = as_user(wished, uid);
            let Ok(id) = serve.try_create(&attacked.id, &attacked.pod, &wished) else { continue };
            let (mut client, container_id) = (serve.runtime(), id.clone());
            let start = async move {
                let request = StartContainerRequest { container_id };
                tokio::time::timeout(Duration::from_secs(3), client.start_container(request)).await.is_ok()
            };
            if !serve.block_on(start) {
                break;
            }
            serve.try_remove(&id).unwrap();
        }
        eprintln!("user {uid}: {:?}", attacked.spy.so_far());
        still_serves(&attacked, &format!("user {uid}"));
        serve.removes_all();
    }
}

/// What is killed or meddled with while it is set up fails by itself; the daemon and the other pods do not notice.
#[test]
fn a_container_that_kills_what_is_started_beside_it_harms_only_that() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let other = serve.logged(pod_on_host("other"));
    let other_id = serve.run_pod(&other);
    let calm = serve.run_container(&other_id, &other, &container(&other, "calm", "sleep 1000"));
    for role in [Role::Kill, Role::Meddle] {
        let attacked = Attacked::new(&serve, sharing(&format!("{role:?}").to_lowercase()), role, |c| c);
        for round in 0..rounds() {
            let _ = serve.try_exec(&attacked.attacker, "exit 3", Some(Duration::from_secs(5)));
            let wished = container(&attacked.pod, &format!("next{round}"), "exit 3");
            let Ok(id) = serve.try_create(&attacked.id, &attacked.pod, &wished) else { continue };
            let _ = serve.try_start(&id);
            serve.try_stop(&id, 0).unwrap();
            serve.try_remove(&id).unwrap();
            assert_eq!(serve.output_in(&calm, "echo calm"), "calm");
        }
        eprintln!("{role:?}: {:?}", attacked.spy.stop());
        still_serves(&attacked, &format!("{role:?}"));
    }
    serve.removes_all();
}

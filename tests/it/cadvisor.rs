//! kubelet's cAdvisor, replayed: it finds cgroups by their names, asks containerd whose they are, and reads the network's
//! counters of the pid that it is told.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_cri::v1::*;
use tonic::{Code, Status};

use crate::pods_network::{in_pod, start_node};
use crate::support::connection::Wire;
use crate::support::raw::{CONTAINER, Fields, TASK, VERSION, bytes_field, call, fields, text};
use crate::support::{Serve, container, pod_on_host, pod_with, wait_until};

/// What cAdvisor knows of a cgroup.
#[derive(Debug)]
struct Handler {
    labels: BTreeMap<String, String>,
    image: String,
    pid: u64,
}

/// cAdvisor with its one connection.
struct Cadvisor<'a> {
    serve: &'a Serve,
    wire: Wire,
}

impl<'a> Cadvisor<'a> {
    /// Registers the handler as kubelet does: dials, hangs up, connects, asks for the version.
    fn connect(serve: &'a Serve) -> Self {
        drop(UnixStream::connect(socket(serve)).unwrap());
        let wire = serve.wire_over(UnixStream::connect(socket(serve)).unwrap());
        serve.block_on(call(&wire, VERSION, Vec::new())).unwrap();
        Self { serve, wire }
    }

    fn get(&self, path: &'static str, id: &str) -> Result<Fields, Status> {
        let answer = self.serve.block_on(call(&self.wire, path, bytes_field(1, id.as_bytes())))?;
        let answer = fields(&answer);
        // kubelet panics without it.
        Ok(fields(&answer.bytes[&1][0]))
    }

    /// What cAdvisor does when it finds a cgroup of this name.
    fn handle(&self, name: &str) -> Result<Handler, Status> {
        let id = id_in(name).unwrap();
        self.get(CONTAINER, &id)?;
        let container = self.get(CONTAINER, &id)?;
        let spec = text(&fields(&container.bytes[&5][0]), 2);
        serde_json::from_str::<serde_json::Value>(&spec).unwrap();
        let labels = container.bytes[&2].iter().map(|entry| fields(entry));
        let labels = labels.map(|entry| (text(&entry, 1), text(&entry, 2))).collect();
        let task = self.get(TASK, &id)?;
        assert_ne!(task.numbers.get(&4).copied().unwrap_or(0), 0, "an unknown status is asked for again");
        let pid = task.numbers.get(&3).copied().unwrap_or(0);
        Ok(Handler { labels, image: text(&container, 3), pid })
    }
}

/// The first run of 64 small letters or digits: cAdvisor's `[a-z0-9]{64}`.
fn id_in(name: &str) -> Option<String> {
    let is_part = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let found = name.as_bytes().windows(64).find(|run| run.iter().all(is_part))?;
    (!name.ends_with(".mount")).then(|| String::from_utf8(found.to_vec()).unwrap())
}

/// The interfaces that cAdvisor reads for a pid.
fn interfaces(pid: u64) -> Vec<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let names = text.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    names.filter(|name| !name.starts_with("lo")).map(str::to_owned).collect()
}

fn socket(serve: &Serve) -> PathBuf {
    serve.path("containerd/containerd.sock")
}

fn config(serve: &Serve) -> String {
    format!("[metrics]\ncontainerd_socket = {:?}\n", socket(serve).display().to_string())
}

/// The directories of a pod's cgroup, one in each hierarchy that has statistics.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let below = |root: &str| Path::new(root).join(parent.trim_start_matches('/'));
    let hierarchies =
        ["cpu", "cpuacct", "memory", "blkio", "pids", "cpuset", "hugetlb", "devices", "perf_event"];
    let mut roots: Vec<_> = hierarchies.iter().map(|name| below(&format!("/sys/fs/cgroup/{name}"))).collect();
    roots.push(below("/sys/fs/cgroup"));
    roots.retain(|path| path.is_dir());
    assert!(!roots.is_empty(), "no cgroup {parent}");
    roots
}

/// The names of the cgroups in this one.
fn names_in(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap().flatten().filter(|entry| entry.path().is_dir());
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// The names of the cgroups in a pod's, which must be the same in each hierarchy.
#[track_caller]
fn names(parent: &str) -> Vec<String> {
    let all: Vec<_> = cgroups(parent).iter().map(|path| names_in(path)).collect();
    assert!(all.iter().all(|names| *names == all[0]), "{all:?}");
    all[0].clone()
}

/// A pod as kubelet makes it, with a cgroup.
fn pod(serve: &Serve, name: &str, options: NamespaceOption) -> (PodSandboxConfig, String) {
    let parent = format!("/{}-{name}", serve.sandbox().mark());
    let mut pod = serve.logged(pod_with(name, options));
    pod.labels = labels(&[
        ("io.kubernetes.pod.name", name),
        ("io.kubernetes.pod.namespace", "tests"),
        ("io.kubernetes.pod.uid", "uid"),
    ]);
    pod.linux.as_mut().unwrap().cgroup_parent.clone_from(&parent);
    (pod, parent)
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn labelled(pod: &PodSandboxConfig, name: &str, script: &str) -> ContainerConfig {
    let mut config = container(pod, name, script);
    config.labels = pod.labels.clone();
    config.labels.insert("io.kubernetes.container.name".to_owned(), name.to_owned());
    config
}

/// Removes what kubelet would remove.
fn remove_parent(parent: &str) {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    for root in hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]) {
        let path = root.join(parent.trim_start_matches('/'));
        if path.is_dir() {
            wait_until("the cgroup of the pod to be empty", || fs::remove_dir(&path).ok());
        }
    }
}

#[test]
fn every_cgroup_of_a_pod_gets_its_labels_and_the_pod_its_network() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = Serve::stopped("");
    serve.configure(&config(&serve));
    start_node(&serve, "10.78.0.0/16");
    let cadvisor = Cadvisor::connect(&serve);
    let (pod, parent) = pod(&serve, "web", in_pod());
    let id = serve.run_pod(&pod);
    let c = serve.try_create(&id, &pod, &labelled(&pod, "c", "sleep 1000")).unwrap();
    // Before any cgroup exists, the record is there.
    for own in [&id, &c] {
        cadvisor.get(CONTAINER, own).unwrap();
    }
    serve.try_start(&c).unwrap();
    let mut expected = [id.clone(), c.clone()];
    expected.sort();
    assert_eq!(names(&parent), expected, "the names are the ids, as /stats/summary needs them");
    for name in names(&parent) {
        let handler = cadvisor.handle(&name).unwrap();
        assert_eq!(handler.labels["io.kubernetes.pod.name"], "web");
        assert_eq!(handler.labels["io.kubernetes.pod.namespace"], "tests");
        if name == c {
            assert_eq!(handler.labels["io.cri-containerd.kind"], "container");
            assert_eq!(handler.labels["io.kubernetes.container.name"], "c");
            assert_eq!(handler.image, "docker.io/library/box:latest");
            assert_eq!(i64::try_from(handler.pid).unwrap(), serve.pid_of(&c));
        } else {
            assert_eq!(handler.labels["io.cri-containerd.kind"], "sandbox");
            assert!(!handler.labels.contains_key("io.kubernetes.container.name"));
            assert!(handler.image.contains("pause"), "{}", handler.image);
            assert_eq!(interfaces(handler.pid), ["eth0"]);
        }
    }
    serve.try_stop_pod(&id).unwrap();
    assert_eq!(
        names(&parent),
        [""; 0],
        "nothing is in the way of kubelet, which removes the pod's cgroup now"
    );
    serve.try_remove_pod(&id).unwrap();
    for own in [&id, &c] {
        assert_eq!(cadvisor.handle(own).unwrap_err().code(), Code::NotFound);
    }
    remove_parent(&parent);
    serve.removes_all();
}

#[test]
fn a_pod_keeps_its_network_when_its_containers_or_the_daemon_are_restarted() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = Serve::stopped("");
    serve.configure(&config(&serve));
    start_node(&serve, "10.80.0.0/16");
    let cadvisor = Cadvisor::connect(&serve);
    let (pod, parent) = pod(&serve, "web", in_pod());
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &labelled(&pod, "c", "sleep 1000"));
    // A second container, and a command in one, change nothing about the pod's.
    let d = serve.run_container(&id, &pod, &labelled(&pod, "d", "sleep 1000"));
    serve.output_in(&c, "true");
    let pid = cadvisor.handle(&id).unwrap().pid;
    assert_eq!(i64::try_from(pid).unwrap(), serve.pid_of(&c));
    // When its process exits, the cgroup is made anew, by which cAdvisor asks again.
    let inodes = || -> Vec<_> {
        cgroups(&parent).iter().filter_map(|path| Some(path.join(&id).metadata().ok()?.ino())).collect()
    };
    let before = inodes();
    serve.try_stop(&c, 0).unwrap();
    wait_until("another cgroup of the pod", || {
        Some(inodes()).filter(|new| !new.is_empty() && *new != before)
    });
    let pid = cadvisor.handle(&id).unwrap().pid;
    assert_eq!(i64::try_from(pid).unwrap(), serve.pid_of(&d));
    assert_eq!(interfaces(pid), ["eth0"]);
    // cAdvisor asks for the exit code of what is gone.
    let gone = cadvisor.get(TASK, &c).unwrap();
    assert_eq!((gone.numbers[&4], gone.numbers[&9]), (3, 137));
    // No process, no network.
    serve.try_stop(&d, 0).unwrap();
    wait_until("the cgroup of the pod to go", || {
        cgroups(&parent).iter().all(|path| names_in(path).is_empty()).then_some(())
    });
    let e = serve.run_container(&id, &pod, &labelled(&pod, "e", "sleep 1000"));
    assert_eq!(i64::try_from(cadvisor.handle(&id).unwrap().pid).unwrap(), serve.pid_of(&e));
    // After kill -9 of the daemon the next one answers, on the same path.
    let network = fs::File::open(format!("/proc/{}/ns/net", serve.pid())).unwrap();
    serve.kill();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/fd/{}", std::process::id(), network.as_raw_fd()));
    serve.start_as(serve.command_by(command));
    let cadvisor = Cadvisor::connect(&serve);
    assert_eq!(names(&parent).len(), 2);
    assert_eq!(interfaces(cadvisor.handle(&id).unwrap().pid), ["eth0"]);
    serve.try_stop_pod(&id).unwrap();
    assert_eq!(
        names(&parent),
        [""; 0],
        "nothing is in the way of kubelet, which removes the pod's cgroup now"
    );
    serve.try_remove_pod(&id).unwrap();
    for own in [&id, &e] {
        assert_eq!(cadvisor.handle(own).unwrap_err().code(), Code::NotFound);
    }
    remove_parent(&parent);
    serve.removes_all();
}

#[test]
fn a_pod_with_a_shared_pid_namespace_is_known_before_its_cgroup_exists() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = Serve::stopped("");
    serve.configure(&config(&serve));
    start_node(&serve, "10.79.0.0/16");
    let cadvisor = Cadvisor::connect(&serve);
    let options = NamespaceOption { pid: NamespaceMode::Pod.into(), ..in_pod() };
    let (pod, parent) = pod(&serve, "shared", options);
    // Somebody watches for the cgroup while the pod is made, and asks at once.
    let run = serve.begin({
        let mut client = serve.runtime();
        let request = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: String::new() };
        async move { client.run_pod_sandbox(request).await }
    });
    let seen = wait_until("the cgroup of the init process", || {
        serve.block_on(async { tokio::task::yield_now().await });
        let root = if Path::new("/sys/fs/cgroup/memory").is_dir() {
            "/sys/fs/cgroup/memory"
        } else {
            "/sys/fs/cgroup"
        };
        let entries = fs::read_dir(format!("{root}{parent}")).ok()?.flatten();
        entries.filter_map(|entry| id_in(&entry.file_name().into_string().ok()?)).next()
    });
    cadvisor.get(CONTAINER, &seen).unwrap();
    let id = serve.block_on(run).unwrap().unwrap().into_inner().pod_sandbox_id;
    assert_eq!(id, seen);
    let handler = cadvisor.handle(&id).unwrap();
    assert_eq!(handler.labels["io.cri-containerd.kind"], "sandbox");
    assert_eq!(interfaces(handler.pid), ["eth0"]);
    serve.try_stop_pod(&id).unwrap();
    serve.try_remove_pod(&id).unwrap();
    remove_parent(&parent);
    serve.removes_all();
}

#[test]
fn the_path_of_a_real_containerd_is_left_alone() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    serve.configure(&config(&serve));
    fs::create_dir_all(socket(&serve).parent().unwrap()).unwrap();
    let containerd = UnixListener::bind(socket(&serve)).unwrap();
    let own = fs::metadata(socket(&serve)).unwrap().ino();
    serve.start();
    assert!(serve.log().contains("metrics of containers have no labels"), "{}", serve.log());
    let pod = serve.logged(pod_on_host("any"));
    let id = serve.run_pod(&pod);
    serve.run_container(&id, &pod, &container(&pod, "c", "sleep 1000"));
    serve.stop();
    assert_eq!(fs::metadata(socket(&serve)).unwrap().ino(), own);
    // Also one that does not answer at the moment.
    drop(containerd);
    serve.start();
    serve.stop();
    assert_eq!(fs::metadata(socket(&serve)).unwrap().ino(), own);
    fs::remove_file(socket(&serve)).unwrap();
    serve.start();
    drop(Cadvisor::connect(&serve));
    serve.removes_all();
    serve.stop();
    assert!(!socket(&serve).exists());
}

#[test]
fn the_socket_of_the_cri_answers_cadvisor_and_the_other_one_answers_no_kubelet() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    serve.configure(&config(&serve));
    serve.start();
    serve.block_on(call(&serve.wire(), VERSION, Vec::new())).unwrap();
    let missing = serve.block_on(call(&serve.wire(), CONTAINER, bytes_field(1, &[b'a'; 64])));
    assert_eq!(missing.unwrap_err().code(), Code::NotFound);
    let other = serve.wire_over(UnixStream::connect(socket(&serve)).unwrap());
    let refused = serve.block_on(call(&other, "/runtime.v1.RuntimeService/Version", Vec::new()));
    assert_eq!(refused.unwrap_err().code(), Code::Unimplemented);
    let mode = fs::metadata(socket(&serve)).unwrap().mode();
    assert_eq!(mode & 0o007, 0, "{mode:o}");
}

#[test]
fn names_of_cgroups_fit_the_rule_with_both_drivers() {
    let id = "0123456789abcdef".repeat(4);
    for name in [id.clone(), format!("coracle-{id}.scope")] {
        assert_eq!(id_in(&name), Some(id.clone()), "{name}");
        // /stats/summary: what follows the last `-` of a scope, else the whole name.
        let summary =
            name.strip_suffix(".scope").map_or(name.as_str(), |own| own.rsplit('-').next().unwrap());
        assert_eq!(summary, id);
    }
    // A command in a container has no id in the name of its cgroup.
    assert_eq!(id_in("exec-4294967295-18446744073709551615"), None);
}

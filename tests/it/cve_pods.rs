//! Known holes of CRI runtimes, each tried as a pod. `tests/conformance/CVE.md` lists them all.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use coracle_cri::v1::*;
use serde_json::json;
use tonic::Code;

use crate::cve_images::import_again;
use crate::pods_network::{ask, in_pod, node};
use crate::support::{Run, Serve, code, container, pod_on_host, pod_with, wait_until};

/// The parameter that such attacks are after: the host's kernel runs what it names, as root.
const CORE_PATTERN: &str = "/proc/sys/kernel/core_pattern";

#[test]
fn cve_2022_0811_a_kernel_parameter_of_a_pod_is_never_the_nodes() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let before = fs::read_to_string(CORE_PATTERN).unwrap();
    // Were one of them let through, it would write what is there already.
    let same = before.trim();
    let twice = format!("1+kernel.core_pattern={same}");
    for (key, value) in [
        ("kernel.core_pattern", same),
        ("kernel/core_pattern", same),
        ("fs.mqueue.//.//.kernel.core_pattern", same),
        ("fs/mqueue/../../kernel/core_pattern", same),
        ("kernel.shm_rmid_forced+kernel.core_pattern", same),
        ("kernel.shm_rmid_forced", &twice),
        // The pod has the node's network: GHSA-w2j5-3rcx-vx7x.
        ("net.ipv4.ip_unprivileged_port_start", "80"),
        ("net.//.kernel.core_pattern", same),
    ] {
        let mut pod = serve.logged(pod_on_host("sysctl"));
        pod.linux.as_mut().unwrap().sysctls = [(key.to_owned(), value.to_owned())].into();
        let refused = serve.try_run_pod(&pod);
        let refused = refused.expect_err(&format!("{key:?} was set to {value:?}"));
        assert!(refused.message().contains(key.split('+').next().unwrap()), "{key}: {refused}");
        assert_eq!(serve.all(), (Vec::new(), Vec::new()), "{key}");
    }
    assert_eq!(fs::read_to_string(CORE_PATTERN).unwrap(), before);
    serve.is_clean();
}

#[test]
fn cve_2022_4318_home_with_a_newline_gets_nobody_into_passwd() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    import_again(
        serve.sandbox(),
        json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "HOME=/x\nimage:x:0:0::/:/bin/sh"] }),
        |_| (),
    );
    let pod = serve.logged(pod_on_host("home"));
    let id = serve.run_pod(&pod);
    let mut config = container(&pod, "box", "sleep 1000");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    // A user that the image does not know; CRI-O adds a line for such a one.
    security.run_as_user = Some(Int64Value { value: 54_321 });
    let before = serve.run_container(&id, &pod, &config);
    let value = b"/x\nevil:x:0:0::/:/bin/sh".to_vec();
    config.envs = vec![KeyValue { key: "HOME".to_owned(), value }];
    config.metadata.as_mut().unwrap().name = "evil".to_owned();
    match serve.try_create(&id, &pod, &config) {
        Ok(c) => {
            serve.try_start(&c).unwrap();
            let passwd = serve.output_in(&c, "cat /etc/passwd");
            assert!(!passwd.contains("evil") && !passwd.contains("image"), "{passwd}");
            assert_eq!(passwd, serve.output_in(&before, "cat /etc/passwd"));
        }
        Err(refused) => assert_eq!(refused.code(), Code::InvalidArgument, "{refused}"),
    }
    serve.removes_all();
}

#[test]
fn cve_2021_21334_containers_of_one_image_share_no_environment() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("env"));
    let id = serve.run_pod(&pod);
    let create = |name: &str, value: &str| {
        let envs = vec![KeyValue { key: format!("SECRET_{name}"), value: value.into() }];
        serve.try_create(&id, &pod, &ContainerConfig { envs, ..container(&pod, name, "sleep 1000") }).unwrap()
    };
    let all: Vec<_> = ["a", "b", "c"].map(|name| (name, create(name, &format!("s3cret-{name}")))).into();
    for (_, c) in &all {
        serve.try_start(c).unwrap();
    }
    for (name, c) in &all {
        // Of the first process, and of one that is added.
        let seen = serve.output_in(c, "tr '\\0' '\\n' </proc/1/environ; env");
        let secrets: HashSet<_> = seen.lines().filter(|line| line.contains("s3cret")).collect();
        assert_eq!(secrets, [&*format!("SECRET_{name}=s3cret-{name}")].into(), "{seen}");
    }
    serve.removes_all();
}

/// The most memory that a process has had, in KiB.
fn peak(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn cve_2022_31030_endless_output_does_not_fill_the_daemons_memory() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("talks"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    for script in ["head -c 400000000 /dev/zero", "head -c 400000000 /dev/zero >&2"] {
        let answer = serve.try_exec(&c, script, Some(Duration::from_secs(60)));
        let kept = answer.as_ref().map_or(0, |answer| answer.stdout.len() + answer.stderr.len());
        assert!(kept <= coracle_cri::MESSAGE_LIMIT, "{kept} bytes");
        assert!(answer.is_ok() || code(answer) == Code::DeadlineExceeded);
    }
    // Output, its answer, and what a debug build takes; far below what was written.
    let peak = peak(serve.pid());
    assert!(peak < 150 << 10, "the daemon took {peak} KiB");
    serve.removes_all();
}

/// Names of abstract sockets: whoever shares the network namespace reaches those, whatever the file system says.
fn abstract_sockets_of(pid: i32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let own: HashSet<_> = fds
        .filter_map(|entry| {
            fs::read_link(entry.path()).ok()?.to_str()?.strip_prefix("socket:[").map(str::to_owned)
        })
        .map(|inode| inode.trim_end_matches(']').to_owned())
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/unix")).unwrap();
    let words = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    words
        .filter(|words| words.get(6).is_some_and(|inode| own.contains(*inode)))
        .filter_map(|words| words.get(7).filter(|name| name.starts_with('@')).map(|name| (*name).to_owned()))
        .collect()
}

#[test]
fn cve_2020_15257_nobody_on_the_nodes_network_reaches_the_daemon_or_the_keeper() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("network"));
    let id = serve.run_pod(&pod);
    serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    let (keeper, standby) = serve.kept().keeper();
    for pid in [serve.pid(), keeper, standby] {
        assert_eq!(abstract_sockets_of(pid), [""; 0], "of process {pid}");
    }
    serve.removes_all();
}

#[test]
fn cve_2019_14891_want_of_memory_in_a_container_does_not_end_the_keeper() {
    needs!(root, busybox, launch_verb, cgroup_limits);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("hungry"));
    let id = serve.run_pod(&pod);
    let mut config = container(&pod, "box", "x=0123456789; while :; do x=$x$x; done");
    config.linux.as_mut().unwrap().resources =
        Some(LinuxContainerResources { memory_limit_in_bytes: 32 << 20, ..Default::default() });
    let before = serve.kept().keeper();
    let c = serve.run_container(&id, &pod, &config);
    let of = |pid: i32| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for pid in [before.0, before.1, serve.pid()] {
        assert!(!of(pid).contains(&c) && !of(pid).contains(&id), "process {pid}: {}", of(pid));
    }
    assert_eq!(serve.exited(&c).reason, "OOMKilled");
    assert_eq!(serve.kept().keeper(), before);
    serve.removes_all();
}

/// cgroups that kubelet would have made, and removes.
struct Parent(String);

impl Drop for Parent {
    fn drop(&mut self) {
        let controllers = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        for dir in controllers.chain(["/sys/fs/cgroup".into()]) {
            let _ = fs::remove_dir(dir.join(self.0.trim_start_matches('/')));
        }
    }
}

#[test]
fn cve_2025_47291_a_pod_with_a_user_namespace_is_below_its_cgroup_parent_like_any_other() {
    needs!(root, busybox, launch_verb, cni_plugins, user_namespaces);
    let serve = node();
    let mapping = || vec![IdMapping { host_id: 200_000, container_id: 0, length: 65_536 }];
    let mapped = UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() };
    let parent = Parent(format!("/{}-kubepods", serve.sandbox().mark()));
    let of = |name: &str, userns_options: Option<UserNamespace>| {
        let options = NamespaceOption { userns_options, ..in_pod() };
        let mut pod = serve.logged(pod_with(name, options));
        pod.linux.as_mut().unwrap().cgroup_parent.clone_from(&parent.0);
        let id = serve.run_pod(&pod);
        let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
        let request = ContainerStatusRequest { container_id: c, verbose: true };
        let verbose = serve.run(serve.runtime().container_status(request)).unwrap();
        let info: serde_json::Value = serde_json::from_str(&verbose.info["info"]).unwrap();
        let lines = fs::read_to_string(format!("/proc/{}/cgroup", info["pid"])).unwrap();
        lines.lines().filter(|line| line.contains(&parent.0)).count()
    };
    let (plain, mapped) = (of("plain", None), of("mapped", Some(mapped)));
    assert!(plain > 0 && mapped == plain, "below the parent in {plain} and {mapped} hierarchies");
    serve.removes_all();
}

#[test]
fn cve_2025_67499_a_port_of_one_address_is_not_taken_at_the_others() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = node();
    let inside = Run::new("nsenter").arg(format!("--net=/proc/{}/ns/net", serve.pid()));
    inside.args(["ip", "addr", "add", "10.99.0.1/32", "dev", "lo"]).go().ok();
    let host_ip = "127.0.0.1".to_owned();
    let mapping = PortMapping { container_port: 80, host_port: 12080, host_ip, ..Default::default() };
    let pod = PodSandboxConfig { port_mappings: vec![mapping], ..pod_with("web", in_pod()) };
    let pod = serve.logged(pod);
    let id = serve.run_pod(&pod);
    let script = "echo served > /index.html; exec httpd -f -p 80 -h /";
    serve.run_container(&id, &pod, &container(&pod, "web", script));
    let answer = wait_until("an answer", || ask(&serve, "127.0.0.1:12080").ok());
    assert!(answer.contains("served"), "{answer}");
    for other in ["10.99.0.1:12080", "10.77.0.1:12080"] {
        let refused = ask(&serve, other).expect_err(other);
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{other}");
    }
    serve.try_stop_pod(&id).unwrap();
    ask(&serve, "127.0.0.1:12080").unwrap_err();
    serve.removes_all();
}

/// Containers cannot be restored from what an archive or an image says of them, because they cannot be restored at all.
#[test]
fn cve_2026_53489_there_are_no_checkpoints() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("checkpoint"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    let location = serve.path("checkpoint.tar").display().to_string();
    let request = CheckpointContainerRequest { container_id: c, location, timeout: 0 };
    let refused = serve.run(serve.runtime().checkpoint_container(request));
    assert_eq!(code(refused), Code::Unimplemented);
    assert!(!serve.path("checkpoint.tar").exists());
    // An image that says that it is one is an image like any other: what it says of logs, mounts and devices is not read.
    let says = json!({
        "io.kubernetes.cri-o.annotations.checkpoint.name": "box",
        "org.criu.checkpoint.container.name": "box",
        "cdi.k8s.io/evil": "vendor.com/class=device",
    });
    let config = json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": says });
    import_again(serve.sandbox(), config, |root| {
        fs::write(root.join("spec.dump"), "{}").unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.join("container.log")).unwrap();
    });
    let plain = serve.run_container(&id, &pod, &container(&pod, "plain", "echo ran; sleep 1000"));
    serve.logs("plain", "stdout F ran");
    assert_eq!(serve.log_of("plain").len(), 1);
    let annotations = serve.try_status(&plain).unwrap().annotations;
    assert!(annotations.is_empty(), "{annotations:?}");
    serve.removes_all();
}

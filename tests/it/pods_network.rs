//! Pods with a network of their own, by Debian's plugins; each test's node has a network namespace of its own, too.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::Duration;

use coracle_cri::v1::*;

use crate::keeper::end_keepers;
use crate::support::{Serve, container, pod_with, wait_until};

/// A node whose network is apart from the machine's, with a bridge for its pods.
pub(crate) fn node() -> Serve {
    node_with("10.77.0.0/16")
}

/// The same; its pods have addresses of this subnet.
fn node_with(subnet: &str) -> Serve {
    let serve = Serve::stopped("");
    start_node(&serve, subnet);
    serve
}

/// Gives a daemon a network whose pods have addresses of this subnet, and starts it.
pub(crate) fn start_node(serve: &Serve, subnet: &str) {
    fs::create_dir_all(serve.path("net.d")).unwrap();
    let text = format!(
        r#"{{"cniVersion": "1.0.0", "name": "net", "plugins": [
            {{"type": "bridge", "bridge": "testbr", "isGateway": true, "ipMasq": true,
              "ipam": {{"type": "host-local", "dataDir": {:?}, "ranges": [[{{"subnet": {subnet:?}}}]]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}}}]}}"#,
        serve.path("leases")
    );
    fs::write(serve.path("net.d/10-net.conflist"), text).unwrap();
    start_apart(serve);
}

/// Starts the daemon in a network namespace of its own.
fn start_apart(serve: &Serve) {
    let mut command = Command::new("unshare");
    let script = "ip link set lo up; echo 1 > /proc/sys/net/ipv4/ip_forward; exec \"$@\"";
    command.args(["--net", "sh", "-c", script, "sh"]);
    serve.start_as(serve.command_by(command));
}

/// What a reboot does to a node: no process, namespace or mount is left, and nothing in /run.
fn reboot(serve: &Serve) {
    serve.kill();
    let run = serve.kept().run_dir();
    end_keepers(&run);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|path| std::path::Path::new(path).starts_with(&run));
    for mount in below.collect::<Vec<_>>().into_iter().rev() {
        rustix::mount::unmount(mount, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
    fs::remove_dir_all(&run).unwrap();
    fs::create_dir(&run).unwrap();
    start_apart(serve);
}

pub(crate) fn in_pod() -> NamespaceOption {
    NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() }
}

/// What answers at an address of the node's network.
pub(crate) fn ask(serve: &Serve, address: &str) -> std::io::Result<String> {
    let path = format!("/proc/{}/ns/net", serve.pid());
    let address: std::net::SocketAddr = address.parse().unwrap();
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let namespace = fs::File::open(path)?;
            coracle::sys::process::setns(namespace.as_fd(), libc::CLONE_NEWNET)?;
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        });
        asked.join().unwrap()
    })
}

#[test]
fn a_pod_has_an_address_a_name_a_resolver_and_a_port_of_the_node() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = node();
    let pod = serve.logged(PodSandboxConfig {
        hostname: "web".to_owned(),
        dns_config: Some(DnsConfig {
            servers: vec!["10.96.0.10".to_owned()],
            searches: vec!["svc.cluster.local".to_owned()],
            options: vec!["ndots:5".to_owned()],
        }),
        port_mappings: vec![PortMapping { container_port: 80, host_port: 12080, ..Default::default() }],
        ..pod_with("web", in_pod())
    });
    let id = serve.run_pod(&pod);
    let network = serve.try_pod_status(&id).unwrap().network.unwrap();
    assert!(network.ip.starts_with("10.77."), "{network:?}");
    let script = "echo served > /index.html; exec httpd -f -p 80 -h /";
    let c = serve.run_container(&id, &pod, &container(&pod, "web", script));
    assert!(serve.output_in(&c, "ip addr show eth0").contains(&network.ip));
    assert_eq!(serve.output_in(&c, "hostname; cat /etc/hostname"), "web\nweb");
    let resolv = serve.output_in(&c, "cat /etc/resolv.conf");
    for line in ["nameserver 10.96.0.10", "search svc.cluster.local", "options ndots:5"] {
        assert!(resolv.contains(line), "{resolv}");
    }
    for address in [format!("{}:80", network.ip), "127.0.0.1:12080".to_owned()] {
        let answer = wait_until("an answer", || ask(&serve, &address).ok());
        assert!(answer.contains("served"), "{address}: {answer}");
    }
    // Two containers share it.
    let other = serve.run_container(&id, &pod, &container(&pod, "other", "sleep 100"));
    assert!(serve.output_in(&other, "wget -qO- 127.0.0.1:80").contains("served"));
    let request = PodSandboxStatsRequest { pod_sandbox_id: id.clone() };
    let stats = serve.run(serve.runtime().pod_sandbox_stats(request)).unwrap().stats.unwrap();
    let counted = stats.linux.unwrap().network.unwrap().default_interface.unwrap();
    assert!(counted.name == "eth0" && counted.rx_bytes.unwrap().value > 0);

    serve.try_stop_pod(&id).unwrap();
    assert_eq!(leases(&serve), 0, "the address is free again");
    ask(&serve, "127.0.0.1:12080").unwrap_err();
    serve.removes_all();
}

#[test]
fn kernel_parameters_are_the_pods_own() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = node();
    let mut pod = serve.logged(pod_with("sysctls", in_pod()));
    let sysctls = [("net.ipv4.ip_unprivileged_port_start", "80"), ("kernel.shm_rmid_forced", "1")];
    pod.linux.as_mut().unwrap().sysctls =
        sysctls.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 100"));
    for (key, value) in sysctls {
        let path = format!("/proc/sys/{}", key.replace('.', "/"));
        assert_eq!(serve.output_in(&c, &format!("cat {path}")), value);
    }
    assert_eq!(fs::read_to_string("/proc/sys/kernel/shm_rmid_forced").unwrap().trim(), "0");
    serve.removes_all();
}

#[test]
fn every_user_of_a_pod_may_use_low_ports_and_icmp_sockets() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = node();
    let values = |id: &str, pod: &PodSandboxConfig, name: &str| {
        let mut config = container(pod, name, "httpd -p 80 -h /; echo code $?; exec sleep 1000");
        let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
        security.run_as_user = Some(Int64Value { value: 65_534 });
        let c = serve.run_container(id, pod, &config);
        let paths =
            ["ip_unprivileged_port_start", "ping_group_range"].map(|key| format!("/proc/sys/net/ipv4/{key}"));
        serve.output_in(&c, &format!("cat {}", paths.join(" ")))
    };
    let pod = serve.logged(pod_with("low", in_pod()));
    let id = serve.run_pod(&pod);
    assert_eq!(values(&id, &pod, "on"), "0\n0\t2147483647");
    serve.logs("on", "stdout F code 0");
    serve.removes_all();
    // A restart applies the configuration.
    serve.configure("[security]\nunprivileged_ports = false\nunprivileged_icmp = false\n");
    serve.stop();
    start_apart(&serve);
    let pod = serve.logged(pod_with("low", in_pod()));
    let id = serve.run_pod(&pod);
    assert_eq!(values(&id, &pod, "off"), "1024\n1\t0");
    serve.logs("off", "stdout F code 1");
    serve.removes_all();
}

#[test]
fn a_damaged_record_of_the_network_keeps_no_pod() {
    needs!(root, launch_verb, cni_plugins);
    let serve = node();
    let damages: [fn(&std::path::Path); 3] = [
        |record| fs::write(record, "").unwrap(),
        |record| fs::File::options().write(true).open(record).unwrap().set_len(20).unwrap(),
        |record| fs::remove_file(record).unwrap(),
    ];
    for damage in damages {
        let id = serve.run_pod(&serve.logged(pod_with("damaged", in_pod())));
        assert_eq!(leases(&serve), 1);
        damage(&serve.path(&format!("store/cni/{id}@eth0.json")));
        serve.try_stop_pod(&id).unwrap();
        assert_eq!(leases(&serve), 0, "DEL was called");
        serve.removes_all();
    }
}

/// A /28 has 13 addresses for pods.
#[test]
fn the_addresses_of_pods_of_before_a_reboot_are_free_again() {
    needs!(root, launch_verb, cni_plugins);
    let serve = node_with("10.77.0.0/28");
    let records = serve.path("store/cni");
    for boot in 0..6 {
        assert_eq!(leases(&serve), 0, "after {boot} reboots");
        let ids: Vec<_> =
            (0..4).map(|n| serve.run_pod(&serve.logged(pod_with(&format!("p{n}"), in_pod())))).collect();
        assert_eq!(leases(&serve), 4);
        // A power cut may leave a file empty, or a new one beside the old one.
        fs::write(records.join(format!("{}@eth0.json", ids[0])), "").unwrap();
        fs::write(records.join(format!("{}@eth0.new", ids[1])), "{").unwrap();
        reboot(&serve);
    }
    assert_eq!(fs::read_dir(&records).unwrap().count(), 0);
    serve.removes_all();
}

#[test]
fn records_of_an_earlier_release_move_to_the_disk() {
    needs!(root, launch_verb, cni_plugins);
    let serve = node();
    let id = serve.run_pod(&serve.logged(pod_with("older", in_pod())));
    let (former, record) = (serve.kept().run_dir().join("cni"), format!("{id}@eth0.json"));
    // The node's network namespace outlives the daemon.
    let pid = serve.pid().to_string();
    let mut holder = Command::new("nsenter").args(["--net", "-t", &pid, "sleep", "1000"]).spawn().unwrap();
    let namespace = format!("/proc/{}/ns/net", holder.id());
    wait_until("the holder to be there", || {
        (fs::read_link(&namespace).ok()? == fs::read_link(format!("/proc/{pid}/ns/net")).ok()?).then_some(())
    });
    serve.stop();
    fs::create_dir(&former).unwrap();
    fs::rename(serve.path("store/cni").join(&record), former.join(&record)).unwrap();
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={namespace}"));
    serve.start_as(serve.command_by(command));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(!former.exists() && serve.path("store/cni").join(&record).exists());
    serve.try_stop_pod(&id).unwrap();
    assert_eq!(leases(&serve), 0);
    serve.removes_all();
}

/// How many addresses are taken.
fn leases(serve: &Serve) -> usize {
    let entries = fs::read_dir(serve.path("leases/net")).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.")).count()
}

#[test]
fn a_network_that_gives_no_address_connects_no_pod() {
    needs!(root, launch_verb, cni_plugins);
    let serve = node();
    let file = serve.path("net.d/10-net.conflist");
    let text = r#"{"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge", "bridge": "testbr", "ipam": {}}]}"#;
    fs::write(&file, text).unwrap();
    let refused = serve.try_run_pod(&serve.logged(pod_with("lost", in_pod()))).unwrap_err();
    assert!(refused.message().contains("no address"), "{refused}");
    assert_eq!(serve.all(), (Vec::new(), Vec::new()));
    serve.is_clean();
}

#[test]
fn a_plugin_that_fails_leaves_nothing_of_the_pod() {
    needs!(root, launch_verb, cni_plugins);
    let serve = node();
    // The second plugin fails, when the first has done its work.
    fs::create_dir(serve.path("plugins")).unwrap();
    let plugin = serve.path("plugins/fails");
    let script =
        "#!/bin/sh\n[ $CNI_COMMAND != ADD ] || { echo '{\"code\": 100, \"msg\": \"no luck\"}'; exit 1; }\n";
    fs::write(&plugin, script).unwrap();
    fs::set_permissions(&plugin, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let file = serve.path("net.d/10-net.conflist");
    let text = fs::read_to_string(&file).unwrap().replace(r#""type": "portmap""#, r#""type": "fails""#);
    fs::write(&file, text).unwrap();
    let pod = serve.logged(pod_with("fails", in_pod()));
    let refused = serve.try_run_pod(&pod).unwrap_err();
    assert!(refused.message().contains("no luck"), "{refused}");
    assert_eq!(serve.all(), (Vec::new(), Vec::new()));
    serve.is_clean();
    fs::remove_file(serve.path("net.d/10-net.conflist")).unwrap();
    let refused = serve.try_run_pod(&pod).unwrap_err();
    assert!(refused.message().contains("no network configuration"), "{refused}");
    serve.is_clean();
}

#[test]
fn a_user_namespace_owns_the_pod_and_files_look_unmapped() {
    needs!(root, busybox, launch_verb, cni_plugins, user_namespaces);
    let serve = node();
    let mapping = || vec![IdMapping { host_id: 200_000, container_id: 0, length: 65_536 }];
    let mapped = UserNamespace { mode: NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() };
    for pid in [NamespaceMode::Container, NamespaceMode::Pod] {
        let options =
            NamespaceOption { pid: pid.into(), userns_options: Some(mapped.clone()), ..Default::default() };
        let pod =
            serve.logged(PodSandboxConfig { hostname: "mapped".to_owned(), ..pod_with("mapped", options) });
        let id = serve.run_pod(&pod);
        let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 100"));
        let owners =
            serve.output_in(&c, "id -u; stat -c %u /bin/busybox; touch /new; stat -c %u /new; hostname");
        assert_eq!(owners, "0\n0\n0\nmapped");
        let status = fs::read_to_string(format!("/proc/{}/status", serve.pid_of(&c))).unwrap();
        assert!(status.contains("Uid:\t200000"), "{status}");
        assert_eq!(serve.output_in(&c, "ip -o link show eth0 | wc -l"), "1");
        serve.removes_all();
    }
}

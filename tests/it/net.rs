//! Pods' networks for real: pinned namespaces, and Debian's CNI plugins. Each test has a "host" network of its own, a
//! thread in new network and mount namespaces, so that the machine's interfaces and rules are never touched.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle::error::{Doing, Kind, Result};
use coracle::net::cni::{Attachment, Capabilities, Cni, PortMapping, Settings};
use coracle::net::namespace;
use coracle::sys::{loopback, process};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};

use crate::support::wait_until;

/// Runs a test where it can harm nobody. All that it mounts and connects ends with the thread.
fn apart(test: impl FnOnce(&Path) + Send) {
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            process::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS).unwrap();
            mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
            // iptables keeps its lock there.
            mount("run", "/run", "tmpfs", MountFlags::empty(), None).unwrap();
            loopback::bring_up().unwrap();
            test(directory.path());
        });
        thread.join().unwrap();
    });
}

/// A bridge with masquerading for host ports, in an address range of `prefix` bits.
fn bridge(directory: &Path, prefix: u8) -> Cni {
    let leases = directory.join("leases");
    let text = format!(
        r#"{{"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {{"type": "bridge", "bridge": "pods0", "isGateway": true, "ipam": {{
                "type": "host-local", "dataDir": "{}",
                "ranges": [[{{"subnet": "10.99.0.0/{prefix}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}]}}}},
            {{"type": "portmap", "capabilities": {{"portMappings": true}}, "snat": true}}]}}"#,
        leases.display()
    );
    fs::create_dir(directory.join("conf")).unwrap();
    fs::write(directory.join("conf/10-pods.conflist"), text).unwrap();
    Cni::new(Settings {
        configurations: vec![directory.join("conf")],
        plugins: vec![PathBuf::from("/usr/lib/cni")],
        records: directory.join("records"),
        ..Settings::default()
    })
}

fn pod(directory: &Path, name: &str) -> Attachment {
    let namespace = directory.join("netns").join(name);
    namespace::create_network(&namespace).unwrap();
    Attachment { container: name.into(), namespace, interface: "eth0".into(), ..Attachment::default() }
}

/// The leases that host-local keeps, one file for each address.
fn leases(directory: &Path) -> usize {
    let entries = fs::read_dir(directory.join("leases/pods")).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with("10.")).count()
}

/// The interfaces of this thread's network namespace.
fn interfaces() -> usize {
    fs::read_to_string("/proc/thread-self/net/dev").unwrap().lines().count() - 2
}

fn rules() -> String {
    let rules = std::process::Command::new("iptables-save").args(["-t", "nat"]).output().unwrap();
    String::from_utf8(rules.stdout).unwrap()
}

/// Answers one connection with these bytes, from inside a namespace.
fn serve(namespace: &Path, port: u16, bytes: &'static [u8]) -> std::thread::JoinHandle<SocketAddr> {
    let listener =
        namespace::within(namespace, || TcpListener::bind(("0.0.0.0", port)).doing(|| "listen")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.write_all(bytes).unwrap();
        peer
    })
}

fn ask(address: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address.parse().unwrap(), Duration::from_secs(10))
        .doing(|| format!("connect to {address}"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).doing(|| "read")?;
    Ok(answer)
}

#[test]
fn a_pinned_namespace_lives_without_a_process_and_has_loopback() {
    needs!(root);
    apart(|directory| {
        let path = directory.join("netns/one");
        namespace::create_network(&path).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        assert_ne!(inode, fs::metadata("/proc/thread-self/ns/net").unwrap().ino());
        // Once more is the same one.
        namespace::create_network(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        let served = serve(&path, 80, b"inside");
        assert_eq!(namespace::within(&path, || ask("127.0.0.1:80")).unwrap(), b"inside");
        served.join().unwrap();
        // Its loopback is not ours.
        ask("127.0.0.1:80").unwrap_err();
        namespace::remove(&path).unwrap();
        assert!(!path.exists() && !namespace::is_pinned(&path));
        namespace::remove(&path).unwrap();
    });
}

#[test]
fn a_file_left_by_an_interrupted_start_is_taken_over() {
    needs!(root);
    apart(|directory| {
        let path = directory.join("one");
        fs::write(&path, "").unwrap();
        assert!(!namespace::is_pinned(&path));
        namespace::create_network(&path).unwrap();
        assert!(namespace::is_pinned(&path));
        assert_eq!(namespace::within(&directory.join("none"), || Ok(())).unwrap_err().kind(), Kind::NotFound);
        let again = namespace::pin(Path::new("/proc/thread-self/ns/net"), &path).unwrap_err();
        assert_eq!(again.kind(), Kind::Exists);
        namespace::remove(&path).unwrap();
        assert!(!path.exists());
        namespace::pin(Path::new("/proc/self/ns/none"), &path).unwrap_err();
        assert!(!path.exists());
    });
}

#[test]
fn two_pods_talk_over_a_bridge_and_leave_nothing_behind() {
    needs!(root, cni_plugins);
    apart(|directory| {
        let cni = bridge(directory, 24);
        cni.status().unwrap();
        let (one, two) = (pod(directory, "one"), pod(directory, "two"));
        let first = cni.add(&one).unwrap().addresses[0];
        let second = cni.add(&two).unwrap().addresses[0];
        assert_ne!(first, second);
        let served = serve(&two.namespace, 8080, b"from two");
        let answer = namespace::within(&one.namespace, || ask(&format!("{second}:8080"))).unwrap();
        assert_eq!(answer, b"from two");
        assert_eq!(served.join().unwrap().ip(), first);
        assert_eq!((leases(directory), interfaces()), (2, 4));
        for pod in [&one, &two] {
            cni.delete(pod).unwrap();
            namespace::remove(&pod.namespace).unwrap();
        }
        // Loopback and the bridge, which belongs to the network.
        assert_eq!((leases(directory), interfaces()), (0, 2));
        assert_eq!(fs::read_dir(directory.join("records")).unwrap().count(), 0);
    });
}

#[test]
fn a_host_port_leads_to_the_pod_through_127_0_0_1() {
    needs!(root, cni_plugins);
    apart(|directory| {
        let cni = bridge(directory, 24);
        let mut web = pod(directory, "web");
        let port = PortMapping { protocol: "tcp", host_port: 12_000, container_port: 80, host_ip: None };
        web.capabilities = Capabilities { ports: vec![port], ..Capabilities::default() };
        cni.add(&web).unwrap();
        let served = serve(&web.namespace, 80, b"web");
        assert_eq!(ask("127.0.0.1:12000").unwrap(), b"web");
        served.join().unwrap();
        assert!(rules().contains("12000"), "{}", rules());
        cni.delete(&web).unwrap();
        assert!(!rules().contains("12000"), "{}", rules());
        ask("127.0.0.1:12000").unwrap_err();
    });
}

#[test]
fn a_network_without_a_free_address_refuses_cleanly() {
    needs!(root, cni_plugins);
    apart(|directory| {
        // The network's address, the bridge's, one for a pod, and the broadcast address.
        let cni = bridge(directory, 30);
        let (one, two) = (pod(directory, "one"), pod(directory, "two"));
        cni.add(&one).unwrap();
        let before = interfaces();
        let error = cni.add(&two).unwrap_err();
        assert!(error.chain().contains("no IP addresses available"), "{error:?}");
        assert_eq!((leases(directory), interfaces()), (1, before));
        cni.delete(&one).unwrap();
        cni.add(&two).unwrap();
    });
}

#[test]
fn a_pod_whose_namespace_has_vanished_is_detached() {
    needs!(root, cni_plugins);
    apart(|directory| {
        let cni = bridge(directory, 24);
        let (lost, kept) = (pod(directory, "lost"), pod(directory, "kept"));
        for pod in [&lost, &kept] {
            cni.add(pod).unwrap();
        }
        namespace::remove(&lost.namespace).unwrap();
        cni.delete(&lost).unwrap();
        assert_eq!(leases(directory), 1);
        // As after a reboot: nobody knows of any pod, and what they held is free again.
        namespace::remove(&kept.namespace).unwrap();
        cni.collect_garbage(&[]).unwrap();
        assert_eq!(leases(directory), 0);
        // The kernel takes the pods' interfaces down in its own time.
        wait_until("only loopback and the bridge", || (interfaces() == 2).then_some(()));
    });
}

//! Limits, kernel parameters, ports, bandwidth.

use super::*;

#[test]
fn limits_of_zero_are_not_set_and_minus_one_means_no_limit() {
    use v1::LinuxContainerResources as Limits;
    let none = limited(Limits::default()).unwrap();
    assert_eq!((none.0.cpu(), none.0.memory(), none.1), (&None, &None, 0));
    let some = limited(Limits {
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 1 << 20,
        memory_swap_limit_in_bytes: -1,
        cpuset_cpus: "0-1".into(),
        oom_score_adj: -997,
        hugepage_limits: vec![v1::HugepageLimit { page_size: "2MB".into(), limit: u64::MAX }],
        unified: [("memory.high".into(), "900000".into())].into(),
        ..Default::default()
    })
    .unwrap();
    let (cpu, memory) = (some.0.cpu().clone().unwrap(), some.0.memory().unwrap());
    assert_eq!((cpu.quota(), cpu.period(), cpu.shares()), (Some(50_000), Some(100_000), Some(512)));
    assert_eq!((memory.limit(), memory.swap()), (Some(1 << 20), Some(-1)));
    assert_eq!(cpu.cpus().as_deref(), Some("0-1"));
    assert_eq!(some.0.hugepage_limits().as_ref().unwrap()[0].limit(), i64::MAX);
    assert_eq!(some.0.unified().as_ref().unwrap()["memory.high"], "900000");
    assert_eq!(some.1, -997);
}

#[test]
fn limits_that_make_no_sense_are_refused_by_name() {
    use v1::LinuxContainerResources as Limits;
    let page = |size: &str| vec![v1::HugepageLimit { page_size: size.into(), limit: 1 }];
    let key = |key: &str| [(key.to_owned(), "1".to_owned())].into();
    let d = Limits::default;
    refused(limited(Limits { cpu_shares: -1, ..d() }), "cpu_shares");
    refused(limited(Limits { cpu_period: -1, ..d() }), "cpu_period");
    refused(limited(Limits { cpu_quota: -2, ..d() }), "cpu_quota");
    refused(limited(Limits { memory_limit_in_bytes: -9, ..d() }), "memory_limit_in_bytes");
    let swap = Limits { memory_limit_in_bytes: 200, memory_swap_limit_in_bytes: 100, ..d() };
    refused(limited(swap), "memory_swap_limit_in_bytes");
    refused(limited(Limits { oom_score_adj: 1001, ..d() }), "oom_score_adj");
    refused(limited(Limits { hugepage_limits: page("2"), ..d() }), "hugepage_limits");
    refused(limited(Limits { hugepage_limits: page("../x"), ..d() }), "hugepage_limits");
    for bad in ["../memory.max", "memory/max", "", "memory", ".max"] {
        refused(limited(Limits { unified: key(bad), ..d() }), "unified");
    }
}

#[test]
fn only_parameters_of_the_pods_own_namespaces_can_be_set() {
    let sysctl = |key: &str, host: bool| {
        let options = v1::NamespaceOption { network: if host { 2 } else { 0 }, ipc: 0, ..Default::default() };
        let linux = v1::LinuxPodSandboxConfig {
            sysctls: [(key.to_owned(), "1".to_owned())].into(),
            security_context: Some(v1::LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        };
        SandboxRequest::from_cri(&v1::PodSandboxConfig { linux: Some(linux), ..pod() })
    };
    for good in ["net.ipv4.ip_forward", "net/core/somaxconn", "kernel.shm_rmid_forced", "fs.mqueue.msg_max"] {
        assert!(sysctl(good, false).is_ok(), "{good}");
    }
    refused(sysctl("net.ipv4.ip_forward", true), "network namespace");
    refused(sysctl("vm.swappiness", false), "vm.swappiness");
    refused(sysctl("kernel.panic", false), "kernel.panic");
    // Each of these would be /proc/sys/kernel/core_pattern, by way of a directory that is allowed.
    for bad in [
        "net.//.kernel.core_pattern",
        "net/../kernel/core_pattern",
        "fs.mqueue.//.//.kernel.core_pattern",
        "fs/mqueue/../../kernel/core_pattern",
        "net..ipv4",
        "net.",
        "/net/core/somaxconn",
    ] {
        refused(sysctl(bad, false), "kernel parameter");
    }
}

#[test]
fn parameters_lie_where_sysctl_looks_for_them() {
    for (name, path) in [
        ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
        ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ("plain", "plain"),
    ] {
        assert_eq!(sysctl_path(name), path);
    }
}

#[test]
fn ports_without_a_host_port_ask_for_nothing() {
    let port = |host_port: i32, container_port: i32, host_ip: &str| {
        let mapping = v1::PortMapping { protocol: 1, host_port, container_port, host_ip: host_ip.into() };
        SandboxRequest::from_cri(&v1::PodSandboxConfig { port_mappings: vec![mapping], ..pod() })
            .map(|p| p.ports)
    };
    assert_eq!(port(0, 80, "").unwrap(), []);
    let udp = port(53, 5353, "::1").unwrap();
    assert_eq!(
        (udp[0].protocol, udp[0].host_port, udp[0].host_ip),
        (PortProtocol::Udp, 53, "::1".parse().ok())
    );
    refused(port(70_000, 80, ""), "host_port");
    refused(port(80, 0, ""), "container_port");
    refused(port(80, 80, "localhost"), "host_ip");
}

#[test]
fn bandwidth_is_a_quantity() {
    let ingress = |text: &str| {
        let annotations = [("kubernetes.io/ingress-bandwidth".to_owned(), text.to_owned())].into();
        TrafficLimits::of(&annotations).map(|b| b.ingress.unwrap())
    };
    let table = [
        ("10M", 10_000_000),
        ("1Ki", 1024),
        ("1.5k", 1500),
        ("2e6", 2_000_000),
        ("1P", 1_000_000_000_000_000),
    ];
    for (text, bits) in table {
        assert_eq!(ingress(text).unwrap(), bits, "{text}");
    }
    for bad in ["", "ten", "10Q", "1", "2P", "-5M", "1e999"] {
        refused(ingress(bad), "ingress-bandwidth");
    }
    assert_eq!(TrafficLimits::of(&BTreeMap::new()).unwrap(), TrafficLimits::default());
}

//! Limits that a kubelet sends without looking whether the node can hold them.

use std::process::Command;

use coracle_cri::v1::*;

use crate::support::{Serve, container, pod_on_host};

#[test]
fn limits_of_huge_pages_keep_no_container_from_starting() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = pod_on_host("pages");
    let id = serve.run_pod(&pod);
    let mut config = container(&pod, "box", "sleep 1000");
    let limit = |size: &str| HugepageLimit { page_size: size.to_owned(), limit: 0 };
    let resources = LinuxContainerResources {
        hugepage_limits: vec![limit("2MB"), limit("1GB")],
        ..LinuxContainerResources::default()
    };
    config.linux.as_mut().unwrap().resources = Some(resources.clone());
    let c = serve.run_container(&id, &pod, &config);
    assert_eq!(serve.output_in(&c, "echo runs"), "runs");
    serve.update(&c, resources);
    serve.removes_all();
}

/// Kernels of small boards are built without some of the controllers.
#[test]
fn absent_controllers_keep_no_container_from_starting() {
    // On v2 no controller can be hidden from one program; cgroup::limits tests its files.
    needs!(root, busybox, launch_verb, cgroup1);
    let serve = Serve::stopped("");
    let mut command = Command::new("unshare");
    let script = "umount /sys/fs/cgroup/pids /sys/fs/cgroup/blkio; exec \"$@\"";
    command.args(["--mount", "sh", "-c", script, "sh"]);
    serve.start_as(serve.command_by(command));
    let pod = pod_on_host("absent");
    let id = serve.run_pod(&pod);
    let mut config = container(&pod, "box", "sleep 1000");
    let limits = |bytes: i64, swap: i64| LinuxContainerResources {
        memory_limit_in_bytes: bytes,
        memory_swap_limit_in_bytes: swap,
        cpu_shares: 512,
        ..LinuxContainerResources::default()
    };
    config.linux.as_mut().unwrap().resources = Some(limits(64 << 20, 80 << 20));
    let c = serve.run_container(&id, &pod, &config);
    assert_eq!(serve.output_in(&c, "echo runs"), "runs");
    serve.update(&c, limits(128 << 20, 256 << 20));
    let request = ContainerStatsRequest { container_id: c };
    serve.run(serve.runtime().container_stats(request)).unwrap();
    serve.removes_all();
}

#[test]
fn swap_is_limited_with_memory_and_the_status_says_so() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = pod_on_host("swap");
    let id = serve.run_pod(&pod);
    let mut config = container(&pod, "box", "sleep 1000");
    let limits = |bytes: i64, swap: i64| LinuxContainerResources {
        memory_limit_in_bytes: bytes,
        memory_swap_limit_in_bytes: swap,
        ..LinuxContainerResources::default()
    };
    config.linux.as_mut().unwrap().resources = Some(limits(64 << 20, 0));
    let c = serve.run_container(&id, &pod, &config);
    let reported = || {
        let limits = serve.try_status(&c).unwrap().resources.unwrap().linux.unwrap();
        (limits.memory_limit_in_bytes, limits.memory_swap_limit_in_bytes)
    };
    // Without swap accounting there is no limit to report.
    let or_none = |swap: i64| if coracle::cgroup::limits_swap() { swap } else { 0 };
    assert_eq!(reported(), (64 << 20, or_none(64 << 20)));
    let file = "/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes";
    if std::path::Path::new(file).exists() {
        let own = std::fs::read_to_string(format!("/proc/{}/cgroup", serve.pid_of(&c))).unwrap();
        let own = own.lines().find_map(|line| line.split_once(":memory:")).unwrap().1.to_owned();
        let file = format!("/sys/fs/cgroup/memory{own}/memory.memsw.limit_in_bytes");
        assert_eq!(std::fs::read_to_string(file).unwrap().trim(), (64 << 20).to_string());
    }
    for (new, expected) in [
        (limits(96 << 20, 128 << 20), (96 << 20, 128 << 20)),
        (limits(0, 0), (96 << 20, 128 << 20)),
        (limits(80 << 20, 0), (80 << 20, 80 << 20)),
    ] {
        serve.update(&c, new);
        assert_eq!(reported(), (expected.0, or_none(expected.1)));
    }
    serve.removes_all();
}

#[test]
fn writable_layers_are_on_the_filesystem_that_image_fs_info_names() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = pod_on_host("layers");
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    let info = serve.run(serve.image().image_fs_info(ImageFsInfoRequest {})).unwrap();
    let request = ContainerStatsRequest { container_id: c };
    let stats = serve.run(serve.runtime().container_stats(request)).unwrap().stats.unwrap();
    assert!(stats.writable_layer.as_ref().unwrap().fs_id.is_some());
    assert_eq!(stats.writable_layer.unwrap().fs_id, info.container_filesystems[0].fs_id);
    serve.removes_all();
}

/// Lowering it needs CAP_SYS_RESOURCE, which a nested node does not have; raising it needs nothing.
#[test]
fn a_guaranteed_pod_starts_where_its_oom_score_adj_cannot_be_lowered() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-sys_resource", "--inh-caps=-sys_resource"]);
    serve.start_as(serve.command_by(command));
    let own = std::fs::read_to_string(format!("/proc/{}/oom_score_adj", serve.pid())).unwrap();
    let pod = pod_on_host("guaranteed");
    let id = serve.run_pod(&pod);
    for (adj, seen) in [(-997, own.trim()), (900, "900")] {
        let mut config = container(&pod, &format!("box{}", adj + 1000), "sleep 1000");
        let resources = LinuxContainerResources { oom_score_adj: adj, ..LinuxContainerResources::default() };
        config.linux.as_mut().unwrap().resources = Some(resources);
        let c = serve.run_container(&id, &pod, &config);
        assert_eq!(
            serve.output_in(&c, "cat /proc/1/oom_score_adj /proc/self/oom_score_adj"),
            format!("{seen}\n{seen}")
        );
    }
    serve.removes_all();
}

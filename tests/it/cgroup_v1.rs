//! Cgroup v1, for real, in groups of the tests' own.

use coracle::cgroup::{Driver, Group, Mode, Plan};
use coracle::error::Kind;
use coracle::id::ContainerId;

use crate::cgroup::{Guard, Waiting, plan, probe, resources, unique, v1};

#[test]
fn limits_are_in_force_and_read_back() {
    if !v1() {
        return;
    }
    let group = Guard::new(
        "limits",
        r#"{"memory":{"limit":16777216,"swap":33554432,"reservation":8388608,"swappiness":5},"pids":{"limit":20},
            "cpu":{"shares":512,"quota":50000,"period":100000,"cpus":"0"}}"#,
    );
    for (controller, file, value) in [
        ("memory", "memory.limit_in_bytes", "16777216"),
        ("memory", "memory.memsw.limit_in_bytes", "33554432"),
        ("memory", "memory.soft_limit_in_bytes", "8388608"),
        ("memory", "memory.swappiness", "5"),
        ("pids", "pids.max", "20"),
        ("cpu", "cpu.shares", "512"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
        ("cpuset", "cpuset.cpus", "0"),
    ] {
        assert_eq!(group.read(controller, file), value, "{file}");
    }
    assert_ne!(group.read("cpuset", "cpuset.mems"), "", "inherited");
}

#[test]
fn memory_and_swap_go_up_and_down_together() {
    if !v1() {
        return;
    }
    let group = Guard::new("updown", r#"{"memory":{"limit":16777216,"swap":33554432}}"#);
    for (limit, swap) in
        [(67_108_864, 134_217_728_i64), (8_388_608, 8_388_608), (-1, -1), (16_777_216, 33_554_432)]
    {
        group.0.update(&resources(&format!(r#"{{"memory":{{"limit":{limit},"swap":{swap}}}}}"#))).unwrap();
        if limit > 0 {
            assert_eq!(group.read("memory", "memory.limit_in_bytes"), limit.to_string());
            assert_eq!(group.read("memory", "memory.memsw.limit_in_bytes"), swap.to_string());
        }
    }
    group.0.update(&resources(r#"{"memory":{"limit":-1}}"#)).unwrap();
    assert_eq!(group.0.stats().unwrap().memory.unwrap().limit, None);
}

/// StopPodSandbox kills what is left in a group that the clean-up after the exit removes.
#[test]
fn a_group_that_is_removed_meanwhile_is_killed_without_an_error() {
    if !v1() {
        return;
    }
    for round in 0..200 {
        let group = Guard::new(&format!("vanishes{round}"), "{}");
        let own = Group::from_paths(group.0.paths()).unwrap();
        std::thread::scope(|scope| {
            let killer = scope.spawn(|| own.kill_all(libc::SIGKILL));
            (0..round % 20 * 100).for_each(|_| std::hint::spin_loop());
            group.0.remove().unwrap();
            killer.join().unwrap().unwrap();
        });
    }
}

#[test]
fn a_frozen_group_stands_still_and_can_still_be_killed() {
    if !v1() {
        return;
    }
    let group = Guard::new("freeze", "{}");
    let mut child = Waiting::inside(&group.0, "exit 0");
    assert!(!group.0.is_frozen().unwrap());
    group.0.freeze().unwrap();
    assert!(group.0.is_frozen().unwrap());
    child.go();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(child.0.try_wait().unwrap().is_none(), "ran while frozen");
    group.0.kill_all(15).unwrap();
    assert!(group.0.is_frozen().unwrap(), "a signal other than SIGKILL leaves a paused group paused");
    group.0.kill_all(9).unwrap();
    assert!(child.signal().is_some());
}

#[test]
fn thawed_processes_go_on() {
    if !v1() {
        return;
    }
    let group = Guard::new("thaw", "{}");
    let child = Waiting::inside(&group.0, "echo done");
    group.0.freeze().unwrap();
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen().unwrap());
    assert_eq!(child.output(), "done\n");
}

#[test]
fn only_the_allowed_devices_open() {
    if !v1() {
        return;
    }
    let group = Guard::new("devices", r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
    let child = Waiting::inside(&group.0, &probe(&["null", "zero", "kmsg", "urandom", "mem"]));
    assert_eq!(child.output(), "null\nzero\nurandom\n");
    let allow = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]}"#;
    group.0.update(&resources(allow)).unwrap();
    let child = Waiting::inside(&group.0, &probe(&["null", "kmsg", "mem"]));
    assert_eq!(child.output(), "null\nkmsg\n");
    let list = group.read("devices", "devices.list");
    assert!(list.contains("c 1:11 r") && list.contains("c *:* m"), "{list}");
}

#[test]
fn nested_groups_are_killed_and_removed_with_it() {
    if !v1() {
        return;
    }
    let group = Guard::new("nested", "{}");
    let mut outer = Waiting::inside(&group.0, "sleep 100");
    let mut inner = Waiting::new("sleep 100");
    for path in group.0.paths().values() {
        std::fs::create_dir_all(path.join("a/b")).unwrap();
    }
    for path in group.0.paths().iter().filter(|(name, _)| *name != "cpuset").map(|(_, path)| path) {
        std::fs::write(path.join("a/b/cgroup.procs"), inner.pid().to_string()).unwrap();
    }
    let mut pids = group.0.pids().unwrap();
    pids.sort_unstable();
    let mut expected = vec![outer.pid(), inner.pid()];
    expected.sort_unstable();
    assert_eq!(pids, expected);

    let again = Group::from_paths(group.0.paths()).unwrap();
    again.kill_all(9).unwrap();
    assert_eq!(outer.signal(), Some(9));
    assert_eq!(inner.signal(), Some(9));
    again.remove().unwrap();
    assert!(group.0.paths().values().all(|path| !path.exists()));
    again.remove().unwrap();
    assert_eq!(again.pids().unwrap(), [0; 0]);
}

#[test]
fn a_group_in_use_is_refused_and_left_alone() {
    if !v1() {
        return;
    }
    let group = Guard::new("used", "{}");
    let child = Waiting::inside(&group.0, "echo alive");
    let error = plan("used", "{}").unwrap().apply().unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("not empty"), "{error}");
    assert_eq!(child.output(), "alive\n");
    drop(plan("used", "{}").unwrap().apply().map(Guard));
}

#[test]
fn a_frozen_leftover_is_refused() {
    if !v1() {
        return;
    }
    let group = Guard::new("icy", "{}");
    group.0.freeze().unwrap();
    assert_eq!(plan("icy", "{}").unwrap().apply().unwrap_err().kind(), Kind::WrongState);
    group.0.thaw().unwrap();
}

#[test]
fn a_limit_the_kernel_refuses_names_its_field_and_leaves_nothing() {
    if !v1() {
        return;
    }
    let error = plan("refused/a/b", r#"{"cpu":{"cpus":"4095"}}"#).unwrap().apply().unwrap_err();
    assert!(error.chain().contains("linux.resources.cpu.cpus"), "{}", error.chain());
    for controller in ["memory", "cpuset", "devices", "unified"] {
        let path = format!("/sys/fs/cgroup/{controller}/{}", unique("refused"));
        assert!(!std::path::Path::new(&path).exists(), "{path}");
    }
    let error = plan("refused", r#"{"network":{"classID":1}}"#).unwrap().apply().unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported, "net_cls is not mounted here: {error}");
}

#[test]
fn an_oom_kill_is_counted() {
    if !v1() {
        return;
    }
    let group = Guard::new("oom", r#"{"memory":{"limit":8388608,"swap":8388608}}"#);
    assert_eq!(group.0.oom_kills().unwrap(), 0);
    let child = Waiting::inside(&group.0, "dd if=/dev/zero of=/dev/null bs=64M count=1; echo $?");
    assert_eq!(child.output(), "137\n");
    assert_eq!(group.0.oom_kills().unwrap(), 1);
    let memory = group.0.stats().unwrap().memory.unwrap();
    assert_eq!(memory.limit, Some(8_388_608));
    assert!(memory.peak.unwrap() > 4_000_000, "{memory:?}");
    assert!(memory.working_set() <= memory.usage);
}

#[test]
fn the_use_of_a_running_group_is_told() {
    if !v1() {
        return;
    }
    let group = Guard::new("stats", r#"{"pids":{"limit":9}}"#);
    let child = Waiting::inside(&group.0, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo");
    let before = group.0.stats().unwrap();
    assert_eq!(before.pids.map(|p| (p.current, p.limit)), Some((1, Some(9))));
    child.output();
    let after = group.0.stats().unwrap();
    assert!(after.cpu.unwrap().usage_ns > before.cpu.unwrap().usage_ns);
}

#[test]
fn without_a_path_the_group_lies_below_the_runtimes_own() {
    if !v1() {
        return;
    }
    let id = ContainerId::parse(&unique("own")).unwrap();
    let group = Guard(Plan::new(None, &id, Driver::Cgroupfs, Mode::V1).unwrap().apply().unwrap());
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let memory = own.lines().find_map(|line| line.split_once(":memory:")).unwrap().1;
    let expected = format!("/sys/fs/cgroup/memory/{}/{id}", memory.trim_matches('/')).replace("//", "/");
    assert_eq!(group.path("memory"), std::path::Path::new(&expected));
    assert!(group.path("memory").is_dir());
}

//! Cgroup v2, for real; on a v1 host in a mount namespace with a v2 view, where no controller works.

use std::path::Path;

use coracle::cgroup::{Group, Mode, mode};
use coracle::error::Kind;

use crate::cgroup::{Guard, Waiting, plan, probe, resources, unique, v2};

#[test]
fn a_group_is_made_entered_and_removed() {
    if !v2("cgroup_v2::a_group_is_made_entered_and_removed") {
        return;
    }
    assert_eq!(mode().unwrap(), Mode::V2);
    let group = Guard::new("made", "{}");
    assert_eq!(group.path(""), Path::new("/sys/fs/cgroup").join(unique("made")));
    assert!(group.0.dir_fd().is_some());
    let child = Waiting::inside(&group.0, "cat /proc/self/cgroup");
    assert_eq!(group.0.pids().unwrap(), [child.pid()]);
    let stats = group.0.stats().unwrap();
    assert!(stats.cpu.is_some());
    let text = child.output();
    assert!(text.lines().any(|line| line == format!("0::/{}", unique("made"))), "{text}");
    group.0.remove().unwrap();
    assert!(!group.path("").exists());
    group.0.remove().unwrap();
    group.0.kill_all(9).unwrap();
    assert_eq!(group.0.pids().unwrap(), [0; 0]);
    assert!(!group.0.is_frozen().unwrap());
}

#[test]
fn nested_groups_are_killed_and_removed_with_it() {
    if !v2("cgroup_v2::nested_groups_are_killed_and_removed_with_it") {
        return;
    }
    let group = Guard::new("nested/inner", "{}");
    let mut outer = Waiting::inside(&group.0, "sleep 100");
    let mut inner = Waiting::new("sleep 100");
    let below = group.path("").join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    std::fs::write(below.join("cgroup.procs"), inner.pid().to_string()).unwrap();
    assert_eq!(group.0.pids().unwrap().len(), 2);
    let again = Group::from_paths(group.0.paths()).unwrap();
    again.kill_all(15).unwrap();
    assert_eq!(outer.signal(), Some(15));
    assert_eq!(inner.signal(), Some(15));
    let mut last = Waiting::inside(&again, "sleep 100");
    again.kill_all(9).unwrap();
    // Removing waits for what was killed to leave; nobody has reaped it yet.
    again.remove().unwrap();
    assert!(!group.path("").exists());
    assert_eq!(last.signal(), Some(9));
    std::fs::remove_dir(group.path("").parent().unwrap()).unwrap();
}

#[test]
fn a_frozen_group_stands_still() {
    if !v2("cgroup_v2::a_frozen_group_stands_still") {
        return;
    }
    let group = Guard::new("freeze", "{}");
    let mut child = Waiting::inside(&group.0, "echo done");
    group.0.freeze().unwrap();
    assert!(group.0.is_frozen().unwrap());
    assert!(group.read("", "cgroup.events").contains("frozen 1"));
    child.go();
    std::thread::sleep(std::time::Duration::from_millis(50));
    assert!(child.0.try_wait().unwrap().is_none(), "ran while frozen");
    group.0.thaw().unwrap();
    assert!(!group.0.is_frozen().unwrap());
    assert_eq!(child.signal(), None);
}

#[test]
fn only_the_allowed_devices_open() {
    if !v2("cgroup_v2::only_the_allowed_devices_open") {
        return;
    }
    let group = Guard::new("devices", r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
    let devices = ["null", "zero", "kmsg", "urandom", "mem"];
    let child = Waiting::inside(&group.0, &probe(&devices));
    assert_eq!(child.output(), "null\nzero\nurandom\n");

    let kmsg = r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"access":"r"},
        {"allow":false,"type":"c","major":1,"minor":1,"access":"r"}]}"#;
    group.0.update(&resources(kmsg)).unwrap();
    let child = Waiting::inside(&group.0, &probe(&devices));
    assert_eq!(
        child.output(),
        "null\nzero\nkmsg\nurandom\n",
        "the old filter is gone, the hole in 1:* holds"
    );

    let all = r#"{"devices":[{"allow":true,"access":"rwm"}]}"#;
    group.0.update(&resources(all)).unwrap();
    let child = Waiting::inside(&group.0, &probe(&devices));
    // /dev/mem may be closed to everybody; the rest is open.
    assert!(child.output().starts_with("null\nzero\nkmsg\nurandom\n"));
}

#[test]
fn an_empty_leftover_is_taken_over_with_the_new_rules() {
    if !v2("cgroup_v2::an_empty_leftover_is_taken_over_with_the_new_rules") {
        return;
    }
    let first = Guard::new("leftover", r#"{"devices":[{"allow":false,"access":"rwm"}]}"#);
    let second = plan("leftover", r#"{"devices":[{"allow":true,"access":"rwm"}]}"#).unwrap().apply().unwrap();
    let child = Waiting::inside(&second, &probe(&["kmsg"]));
    assert_eq!(child.output(), "kmsg\n");
    let child = Waiting::inside(&first.0, "true");
    assert_eq!(plan("leftover", "{}").unwrap().apply().unwrap_err().kind(), Kind::Busy);
    drop(child);
    first.0.freeze().unwrap();
    assert_eq!(plan("leftover", "{}").unwrap().apply().unwrap_err().kind(), Kind::WrongState);
    first.0.thaw().unwrap();
}

#[test]
fn a_missing_controller_is_named_and_nothing_is_left() {
    if !v2("cgroup_v2::a_missing_controller_is_named_and_nothing_is_left") {
        return;
    }
    let has_memory = std::fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap().contains("memory");
    for (json, field) in [
        (r#"{"memory":{"limit":16777216}}"#, "linux.resources.memory.limit"),
        (r#"{"unified":{"memory.high":"16777216"}}"#, "linux.resources.unified"),
    ] {
        let result = plan("missing/a/b", json).unwrap().apply();
        if has_memory {
            result.unwrap().remove().unwrap();
            continue;
        }
        let error = result.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{error:?}");
        assert!(error.chain().contains(field), "{error:?}");
        assert!(error.first_hint().unwrap().contains("cgroup_enable=memory"), "{error:?}");
        assert!(!Path::new("/sys/fs/cgroup").join(unique("missing")).exists());
    }
    let error = plan("missing", r#"{"unified":{"cgroup.nonsense":"1"}}"#).unwrap().apply().unwrap_err();
    assert!(error.chain().contains("cgroup.nonsense"), "{error:?}");
}

#[test]
fn a_record_cannot_lead_out_of_the_hierarchy() {
    if !v2("cgroup_v2::a_record_cannot_lead_out_of_the_hierarchy") {
        return;
    }
    for bad in ["/", "/etc", "/sys/fs/cgroup", "/sys/fs/cgroup/../../etc", "relative", "/proc/self"] {
        let paths = [(String::new(), bad.into())].into();
        assert!(Group::from_paths(&paths).is_err(), "{bad}");
    }
}

//! The harness itself: a test that cannot fail is none, and neither is a harness that sees no leftovers.

use std::time::Duration;

use crate::support::{Run, Sandbox};

#[test]
fn a_command_is_read_to_its_end() {
    let output =
        Run::new("sh").args(["-c", "cat; echo word; echo other >&2; exit 7"]).input("in ").go().exits(7);
    assert_eq!((output.text(), output.stderr.as_str()), ("in word", "other\n"));
}

#[test]
fn a_child_that_keeps_the_pipes_open_does_not_hold_up_the_command() {
    let output = Run::new("sh").args(["-c", "sleep 5 & echo $!"]).patience(Duration::from_secs(4)).go().ok();
    let pid = rustix::process::Pid::from_raw(output.text().parse().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
#[should_panic(expected = "hung for")]
fn a_hang_is_a_failure() {
    Run::new("sleep").arg("60").patience(Duration::from_millis(50)).go();
}

#[test]
fn a_signal_is_told_from_an_exit() {
    let output = Run::new("sh").args(["-c", "kill -TERM $$"]).go();
    assert_eq!((output.code(), output.signal()), (None, Some(15)));
}

#[test]
fn a_process_left_behind_is_found() {
    let sandbox = Sandbox::new();
    let mut child =
        std::process::Command::new("sleep").arg("60").env("LEFT_BY", sandbox.id("x")).spawn().unwrap();
    let found = format!("{:?}", sandbox.traces());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(found.contains("sleep 60"), "{found}");
}

#[test]
fn a_cgroup_left_behind_is_found() {
    needs!(root, cgroup1);
    let sandbox = Sandbox::new();
    let dir = format!("/sys/fs/cgroup/pids/{}", sandbox.id("left"));
    std::fs::create_dir(&dir).unwrap();
    let found = format!("{:?}", sandbox.traces());
    std::fs::remove_dir(&dir).unwrap();
    assert!(found.contains(&dir), "{found}");
}

#[test]
fn a_mount_left_behind_is_found_and_fails_the_test() {
    needs!(root);
    let fails = std::thread::spawn(|| {
        let sandbox = Sandbox::new();
        let dir = sandbox.path("left");
        std::fs::create_dir(&dir).unwrap();
        Run::new("mount").args(["-t", "tmpfs", "none"]).arg(&dir).go().ok();
    });
    let message = fails.join().unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("Mount(") && message.contains("/left"), "{message}");
}

#[test]
fn a_cgroup2_view_hides_the_hosts_cgroups_and_leaves_them_alone() {
    needs!(root, cgroup2);
    let cgroup_mounts = || {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        table.lines().filter(|line| line.contains(" /sys/fs/cgroup")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = cgroup_mounts();
    let sandbox = Sandbox::new().with_cgroup2_view();
    let view = sandbox.in_view("stat".as_ref(), &["-f", "-c", "%T", "/sys/fs/cgroup"]).go().ok();
    assert_eq!(view.text(), "cgroup2fs");
    assert_eq!(cgroup_mounts(), before);
}

#[test]
fn a_process_that_only_sees_a_marked_mount_is_nobodys_leftover() {
    needs!(root);
    let sandbox = Sandbox::new();
    let dir = sandbox.path("seen");
    std::fs::create_dir(&dir).unwrap();
    Run::new("mount").args(["-t", "tmpfs", "none"]).arg(&dir).go().ok();
    let bystander = std::process::Command::new("sleep").arg("60").spawn();
    let found = format!("{:?}", sandbox.traces());
    Run::new("umount").arg(&dir).go().ok();
    let mut bystander = bystander.unwrap();
    bystander.kill().unwrap();
    bystander.wait().unwrap();
    assert!(found.contains("Mount(") && !found.contains("Process("), "{found}");
}

//! A container that may write to its cgroup, and freezes it while others enter.

use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::json;

use super::rounds;
use crate::support::{Sandbox, wait_until};

/// Longer than a call takes whatever hangs beside it, on a loaded machine.
const SOON: Duration = Duration::from_secs(10);

/// Freezes the container with everything in it, a moment after the word.
const FREEZE: &str = "echo ready; while [ ! -e /tmp/go ]; do sleep 0.01; done; \
    for f in /sys/fs/cgroup/freezer/freezer.state; do [ -e $f ] && echo FROZEN >$f; done; \
    [ -e /sys/fs/cgroup/cgroup.freeze ] && echo 1 >/sys/fs/cgroup/cgroup.freeze; sleep 1000";

/// Whatever comes of the test, nothing stays frozen: not even SIGKILL would end it.
struct Thaw<'a>(&'a str);

impl Drop for Thaw<'_> {
    fn drop(&mut self) {
        let freezer = std::fs::read_dir("/sys/fs/cgroup/freezer").into_iter().flatten().flatten();
        for entry in freezer.filter(|entry| entry.file_name().to_string_lossy().contains(self.0)) {
            let _ = std::fs::write(entry.path().join("freezer.state"), "THAWED");
        }
    }
}

fn frozen_while_entered(sandbox: &Sandbox) {
    let cgroup =
        json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw"] });
    let bundle = sandbox.bundle("cgroup-namespace").with("/root/readonly", json!(false)).script(FREEZE);
    let bundle = bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        mounts.push(cgroup);
    });
    let bundle = super::exec::grant(bundle, &["CAP_DAC_OVERRIDE"]);
    let web = sandbox.id("web");
    for round in 0..rounds().div_ceil(4) {
        sandbox.run_detached(&bundle, "web", &[]).ok();
        sandbox.wait_for_output("web", "ready");
        let go = bundle.root().join("tmp/go");
        let mut entering: Vec<_> = (0..4)
            .map(|number| {
                use std::os::unix::process::CommandExt;
                if number == 1 {
                    std::fs::write(&go, "").unwrap();
                }
                let mut command = Command::new(sandbox.runtime_kind().program());
                command.arg("--root").arg(sandbox.root()).args(["exec", &web, "/bin/sleep", "0.01"]);
                command.env("CORACLE_SANDBOX", sandbox.mark()).process_group(0);
                command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                std::thread::sleep(Duration::from_millis(7 * (round as u64 % 5)));
                command.spawn().unwrap()
            })
            .collect();
        wait_until("the container to be frozen", || (sandbox.status("web")? == "paused").then_some(()));
        sandbox.prepare(["list"]).patience(SOON).go().ok();
        let thaw = Thaw(sandbox.mark());
        sandbox.prepare(["delete", "--force", &web]).patience(SOON).go().ok();
        drop(thaw);
        wait_until("whoever entered to end", || {
            entering.iter_mut().all(|child| child.try_wait().unwrap().is_some()).then_some(())
        });
        std::fs::remove_file(go).unwrap();
        std::fs::remove_file(sandbox.path("web.out")).unwrap();
    }
}

#[test]
fn a_container_that_freezes_itself_holds_up_nobody() {
    needs!(root, busybox, oci_verbs);
    frozen_while_entered(&Sandbox::new());
}

#[test]
fn a_container_that_freezes_itself_on_cgroup2_holds_up_nobody() {
    needs!(root, busybox, oci_verbs, cgroup2);
    frozen_while_entered(&Sandbox::new().with_cgroup2_view());
}

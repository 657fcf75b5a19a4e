//! What both versions' tests share: a group of their own, children in it, and a view of a pure v2 host.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coracle::cgroup::{Driver, Group, Mode, Plan, mode};
use coracle::error::Result;
use coracle::id::ContainerId;
use oci_spec::runtime::{Linux, LinuxResources};

/// A plan for `/coracle-test-<pid>-<name>`, or for what is below it.
pub(crate) fn plan(name: &str, resources: &str) -> Result<Plan> {
    let mut linux = Linux::default();
    linux.set_cgroups_path(Some(PathBuf::from(format!("/{}", unique(name)))));
    linux.set_resources(Some(serde_json::from_str(resources).unwrap()));
    let id = ContainerId::parse("test").unwrap();
    Plan::new(Some(&linux), &id, Driver::Cgroupfs, mode().unwrap())
}

pub(crate) fn unique(name: &str) -> String {
    format!("coracle-test-{}-{name}", std::process::id())
}

pub(crate) fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

/// A group that goes away with the test, whatever it came to.
pub(crate) struct Guard(pub(crate) Group);

impl Guard {
    pub(crate) fn new(name: &str, resources: &str) -> Self {
        Self(plan(name, resources).unwrap().apply().unwrap())
    }

    /// The text of a file, in the hierarchy of `controller` on v1.
    pub(crate) fn read(&self, controller: &str, file: &str) -> String {
        let path = self.path(controller).join(file);
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
    }

    pub(crate) fn path(&self, controller: &str) -> &Path {
        &self.0.paths()[controller]
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill_all(9);
        let _ = self.0.remove();
    }
}

/// A child that does `script` once it is told to; killed with the test.
pub(crate) struct Waiting(pub(crate) Child);

impl Waiting {
    pub(crate) fn new(script: &str) -> Self {
        let script = format!("read go; {script}");
        let mut command = Command::new("sh");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        Self(command.spawn().unwrap())
    }

    pub(crate) fn inside(group: &Group, script: &str) -> Self {
        let child = Self::new(script);
        group.attach(child.pid()).unwrap();
        child
    }

    pub(crate) fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    pub(crate) fn go(&mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
    }

    /// Lets it run to its end and answers what it printed.
    pub(crate) fn output(mut self) -> String {
        self.go();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut self.0.stdout.take().unwrap(), &mut text).unwrap();
        text
    }

    /// The signal it died of, within five seconds.
    pub(crate) fn signal(&mut self) -> Option<i32> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return std::os::unix::process::ExitStatusExt::signal(&status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("child {} still lives", self.0.id());
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `false`, after saying so, where the test cannot run; a failure where skipping is forbidden.
fn possible(can: bool, need: &'static str) -> bool {
    if !can {
        crate::support::skip("cgroup", need);
    }
    can
}

pub(crate) fn root() -> bool {
    possible(rustix::process::geteuid().is_root(), "root")
}

pub(crate) fn v1() -> bool {
    root() && possible(mode().is_ok_and(|mode| mode == Mode::V1), "cgroup1")
}

/// Whether the calling test, named `test`, sees a v2 host. Where the host runs v1 the test runs again, alone, in a
/// mount namespace of its own where /sys/fs/cgroup is v2; its failure is the caller's.
pub(crate) fn v2(test: &str) -> bool {
    if mode().is_ok_and(|mode| mode == Mode::V2) {
        return root();
    }
    assert!(std::env::var_os("CORACLE_TEST_V2").is_none(), "the v2 view did not come to be");
    if !root() {
        return false;
    }
    let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup && exec \"$0\" \"$@\"";
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--test-threads=1", "--nocapture"])
        .env("CORACLE_TEST_V2", "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let ran = text.contains("1 passed");
    assert!(output.status.success() && ran, "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// A script that prints the name of each device that can be opened for reading.
pub(crate) fn probe(devices: &[&str]) -> String {
    devices.iter().map(|device| format!("(: < /dev/{device}) && echo {device}; ")).collect::<String>()
        + "true"
}

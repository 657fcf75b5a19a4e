//! Waiting for something that another process brings about.

use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// Asks until the answer is `Some`; fails the test when that takes longer than a loaded machine could explain.
#[track_caller]
pub(crate) fn wait_until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the kernel reports how a process ended after somebody else has reaped it. KERNEL(6.15)
pub(crate) fn kernel_tells_ends() -> bool {
    let mut child = Command::new("true").spawn().unwrap();
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
    child.wait().unwrap();
    coracle::sys::pidfd::exit_status(pidfd.as_fd()).is_ok()
}

//! The first process of a PID namespace that a pod's containers share: it reaps orphans, and its end is the end of them all.

use std::process::ExitCode;

use rustix::process::{WaitOptions, wait};

use crate::sys::signal::{SIGINFO_SIZE, capture_all};

/// The keeper's argument for it.
pub const POD_INIT: &str = "pod-init";

/// Waits for SIGTERM or SIGINT.
pub(in crate::keeper) fn run() -> ExitCode {
    let Ok(signals) = capture_all() else { return ExitCode::FAILURE };
    crate::sys::memory::unmap_code();
    loop {
        while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
        // It does not block; there is nothing else to wait for.
        let _ = rustix::event::poll(
            &mut [rustix::event::PollFd::new(&signals, rustix::event::PollFlags::IN)],
            None,
        );
        let mut info = [0; SIGINFO_SIZE];
        while rustix::io::read(&signals, &mut info) == Ok(info.len()) {
            let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            if matches!(number, libc::SIGTERM | libc::SIGINT) {
                return ExitCode::SUCCESS;
            }
        }
    }
}

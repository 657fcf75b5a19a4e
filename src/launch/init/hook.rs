//! Runs hooks inside: createContainer before the pivot, startContainer right before the payload.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, pidfd_send_signal, waitpid};

use super::{At, Outcome};
use crate::launch::steps::HookStep;
use crate::launch::wire::Op;
use crate::sys::process::{dup_onto, execve, exit_now, spawn};

/// Runs one hook and waits until it ends or its timeout passes.
pub(super) fn run(hook: &HookStep, state: BorrowedFd<'_>) -> Outcome {
    seek(state, SeekFrom::Start(0)).at(Op::Open)?;
    let child = spawn(0, None, || {
        if dup_onto(state, 0).is_ok() {
            execve(&hook.path, &hook.argv, &hook.envp);
        }
        exit_now(127)
    })
    .at(Op::Fork)?;
    let in_time = wait(child.pidfd.as_fd(), hook.timeout_s)?;
    if !in_time {
        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    }
    let status = loop {
        match waitpid(Pid::from_raw(child.pid), WaitOptions::empty()) {
            Err(Errno::INTR) => {}
            other => break other.at(Op::Wait)?,
        }
    };
    match (in_time, status) {
        (false, _) => Err((Op::HookTimeout, Errno::TIMEDOUT)),
        (true, Some((_, status))) if status.exit_status() == Some(0) => Ok(()),
        (true, Some((_, status))) if status.exit_status() == Some(127) => Err((Op::HookExit, Errno::NOENT)),
        (true, _) => Err((Op::HookExit, Errno::CANCELED)),
    }
}

/// Whether the process ended before the timeout.
fn wait(pidfd: BorrowedFd<'_>, timeout_s: Option<i64>) -> Outcome<bool> {
    let Some(seconds) = timeout_s else { return Ok(true) };
    let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
    match poll(&mut [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)], Some(&timeout)) {
        Ok(ready) => Ok(ready > 0),
        Err(errno) => Err((Op::Wait, errno)),
    }
}

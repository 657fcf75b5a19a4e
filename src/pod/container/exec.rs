//! ExecSync: runs a command in a container, collects its output, and kills all of it at its deadline.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coracle_cri::{Call, v1};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use super::Containers;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::launch::deadline::SET_UP_LIMIT;
use crate::oci::exec::{Added, Streams, exec_in_pod};

/// The prefix of the names of the commands' cgroups.
pub(in crate::pod) const PREFIX: &str = "exec-";

/// How many bytes of each output are kept; the rest is read and discarded.
const MOST: usize = 16 << 20;

/// How long a killed command may take to exit.
const LAST: Duration = Duration::from_secs(10);

/// Numbers the commands, for the names of their cgroups.
static COUNT: AtomicU64 = AtomicU64::new(0);

impl Containers {
    /// Runs a command in a running container and returns its output and exit code. All of its processes are killed after
    /// `timeout`, or when `call` is cancelled.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`, `TimedOut`; the command cannot be run.
    pub(in crate::pod) fn exec(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        call: &Call,
    ) -> Result<v1::ExecSyncResponse> {
        let container = ContainerId::parse(&self.running(id)?.id)?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let cancelled = cancel_event(call)?;
        let (out, err) = (Output::new()?, Output::new()?);
        let null = std::fs::File::open("/dev/null").doing(|| "open /dev/null")?;
        let streams = Streams::Given([null.into(), out.1, err.1]);
        let left = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let limit = left.unwrap_or(SET_UP_LIMIT).min(SET_UP_LIMIT);
        let added = exec_in_pod(&self.host.runtime(), &container, command, streams, &cgroup_name(), limit)?;
        let mut running = Running { added, outputs: [out.0, err.0], cancelled: &cancelled };
        let exited = running.follow(deadline);
        let code = running.finish(matches!(exited, Ok(true)))?;
        if !exited? {
            return Err(killed(command, timeout.filter(|_| !call.is_cancelled())));
        }
        let [stdout, stderr] = running.outputs.map(|output| output.kept);
        Ok(v1::ExecSyncResponse { stdout, stderr, exit_code: code })
    }
}

/// The error for a command that was killed at its time limit, or because its call was cancelled.
fn killed(command: &[String], limit: Option<Duration>) -> Error {
    let command = command.join(" ");
    match limit {
        Some(limit) => {
            Error::new(Kind::TimedOut, format!("the command {command:?} took longer than {limit:?}"))
        }
        None => {
            Error::new(Kind::Cancelled, format!("the command {command:?} was killed: its call was cancelled"))
        }
    }
}

/// An eventfd that becomes readable when the call is cancelled.
fn cancel_event(call: &Call) -> Result<Arc<OwnedFd>> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).doing(|| "make an eventfd")?;
    let event = Arc::new(event);
    let signalled = Arc::clone(&event);
    call.on_cancel(move || {
        let _ = rustix::io::write(&*signalled, &1_u64.to_ne_bytes());
    });
    Ok(event)
}

/// The read end of a pipe, and what was read from it.
struct Output {
    end: OwnedFd,
    kept: Vec<u8>,
    open: bool,
}

impl Output {
    fn new() -> Result<(Self, OwnedFd)> {
        let (end, theirs) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe")?;
        rustix::io::ioctl_fionbio(&end, true).doing(|| "set up a pipe")?;
        Ok((Self { end, kept: Vec::new(), open: true }, theirs))
    }

    /// Reads what is available, about `most` bytes.
    fn read(&mut self, most: usize) {
        let mut buffer = [0; 16 << 10];
        let mut total = 0;
        while self.open && total < most {
            match rustix::io::read(&self.end, &mut buffer) {
                Ok(0) => self.open = false,
                Ok(length) => {
                    total += length;
                    let room = MOST - self.kept.len();
                    self.kept.extend_from_slice(&buffer[..length.min(room)]);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Err(_) => self.open = false,
            }
        }
    }
}

/// A command that was started.
struct Running<'a> {
    added: Added,
    outputs: [Output; 2],
    cancelled: &'a OwnedFd,
}

impl Running<'_> {
    /// Reads the output until the command has exited; returns false at the deadline or on cancellation. It does not wait for
    /// children that keep the pipes open.
    fn follow(&mut self, deadline: Option<Instant>) -> Result<bool> {
        loop {
            let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = timeout.map(|left| Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let process = self.added.process.pidfd.as_fd();
            let mut polled = vec![
                PollFd::from_borrowed_fd(process, PollFlags::IN),
                PollFd::new(self.cancelled, PollFlags::IN),
            ];
            let open = self.outputs.iter().filter(|output| output.open);
            polled.extend(open.map(|output| PollFd::new(&output.end, PollFlags::IN)));
            match poll(&mut polled, timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Err(Errno::INTR) => continue,
                other => other.doing(|| "wait for the command")?,
            };
            let (exited, cancelled) = (!polled[0].revents().is_empty(), !polled[1].revents().is_empty());
            // After the exit, read at most what a pipe can hold: later output is from other processes.
            let most = if exited { 1 << 20 } else { 64 << 10 };
            self.outputs.iter_mut().for_each(|output| output.read(most));
            if exited || cancelled {
                return Ok(exited);
            }
        }
    }

    /// Waits for the exit with a time limit: the command may wait for a device, or be frozen.
    fn await_exit(&self) -> Result<()> {
        let limit = Timespec { tv_sec: LAST.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.added.process.pidfd, PollFlags::IN)], Some(&limit)) {
            Ok(0) => Err(Error::new(Kind::TimedOut, "the command was killed and does not die")),
            _ => Ok(()),
        }
    }

    /// Reaps the command and returns its exit code. If it has not exited by itself, it is killed with all its children.
    fn finish(&mut self, has_exited: bool) -> Result<i32> {
        let pid = self.added.process.pid;
        if !has_exited {
            match &self.added.apart {
                Some(apart) => apart.kill_and_remove()?,
                None => super::kill_tree::kill_tree(pid),
            }
            let _ = pidfd_send_signal(&self.added.process.pidfd, Signal::KILL);
        }
        self.await_exit()?;
        reap(&self.added, has_exited)
    }
}

/// Reaps a command that has exited and returns its exit code, or 128 + the signal that ended it. With `keep_children`, those
/// that it left running belong to the container from then on.
pub(super) fn reap(added: &Added, keep_children: bool) -> Result<i32> {
    let status = waitid(WaitId::PidFd(added.process.pidfd.as_fd()), WaitIdOptions::EXITED)
        .doing(|| "wait for the command")?;
    if keep_children && let Some(apart) = &added.apart {
        apart.merge_into_parent()?;
    }
    let code = status.and_then(|status| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Some(code),
        (None, signal) => signal.map(|signal| 128 + signal),
    });
    Ok(code.unwrap_or(255))
}

/// A new name for a command's cgroup.
pub(super) fn cgroup_name() -> String {
    format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

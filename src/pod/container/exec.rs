//! ExecSync: a command in a container, its output, and an end to all of it when its time is over.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use coracle_cri::{Call, v1};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::launch::deadline::SET_UP_LIMIT;
use crate::oci::exec::{Piped, exec_piped};
use crate::pod::Pods;

/// How the names of their cgroups begin.
pub(in crate::pod) const PREFIX: &str = "exec-";

/// The most that is kept of each output, in bytes; what comes after it is read and thrown away.
const MOST: usize = 16 << 20;

/// How long a killed command may take to die.
const LAST: Duration = Duration::from_secs(10);

/// Commands so far: names for their cgroups.
static COUNT: AtomicU64 = AtomicU64::new(0);

impl Pods {
    /// Runs a command in a running container and answers its output and exit code. After `timeout`, or when nobody waits
    /// for the answer any more, all of its processes are killed.
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
        let container = self.running(id)?;
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let left = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).doing(|| "make an eventfd")?;
        let left = Arc::new(left);
        let wake = Arc::clone(&left);
        call.on_cancel(move || {
            let _ = rustix::io::write(&*wake, &1_u64.to_ne_bytes());
        });

        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let (out, err) = (Output::new()?, Output::new()?);
        let null = std::fs::File::open("/dev/null").doing(|| "open /dev/null")?;
        let streams = [null.into(), out.1, err.1];
        let time = deadline.map(|at| at.saturating_duration_since(Instant::now()));
        let limit = time.unwrap_or(SET_UP_LIMIT).min(SET_UP_LIMIT);
        let id = ContainerId::parse(&container.id)?;
        let piped = exec_piped(&self.runtime(), &id, command, streams, &name, limit)?;
        let mut running = Running { piped, outputs: [out.0, err.0], left: &left };
        let ended = running.follow(deadline);
        let code = running.finish(matches!(ended, Ok(true)))?;
        if !ended? {
            let what = format!("the command {:?} took longer than {timeout:?}", command.join(" "));
            return Err(Error::new(Kind::TimedOut, what));
        }
        let [stdout, stderr] = running.outputs.map(|output| output.kept);
        Ok(v1::ExecSyncResponse { stdout, stderr, exit_code: code })
    }
}

/// Our end of a pipe, and what came out of it.
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

    /// Takes what is there now, at most `most` bytes.
    fn take(&mut self, most: usize) {
        let mut buffer = [0; 16 << 10];
        let mut taken = 0;
        while self.open && taken < most {
            match rustix::io::read(&self.end, &mut buffer) {
                Ok(0) => self.open = false,
                Ok(length) => {
                    taken += length;
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
    piped: Piped,
    outputs: [Output; 2],
    left: &'a OwnedFd,
}

impl Running<'_> {
    /// Reads its output until it has ended: whether it did, in time. Children that keep the pipes do not matter.
    fn follow(&mut self, deadline: Option<Instant>) -> Result<bool> {
        loop {
            let timeout = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            let timeout = timeout.map(|left| Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            });
            let process = self.piped.process.pidfd.as_fd();
            let mut polled =
                vec![PollFd::from_borrowed_fd(process, PollFlags::IN), PollFd::new(self.left, PollFlags::IN)];
            let open = self.outputs.iter().filter(|output| output.open);
            polled.extend(open.map(|output| PollFd::new(&output.end, PollFlags::IN)));
            match poll(&mut polled, timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Err(Errno::INTR) => continue,
                other => other.doing(|| "wait for the command")?,
            };
            let (ended, abandoned) = (!polled[0].revents().is_empty(), !polled[1].revents().is_empty());
            // A pipe's worth when it has ended: what others still write is not its.
            let most = if ended { 1 << 20 } else { 64 << 10 };
            self.outputs.iter_mut().for_each(|output| output.take(most));
            if ended || abandoned {
                return Ok(ended);
            }
        }
    }

    /// Waits until it has ended, but not for ever: it may wait for a device, or be frozen.
    fn await_death(&self) -> Result<()> {
        let limit = Timespec { tv_sec: LAST.as_secs().cast_signed(), tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.piped.process.pidfd, PollFlags::IN)], Some(&limit)) {
            Ok(0) => Err(Error::new(Kind::TimedOut, "the command was killed and does not die")),
            _ => Ok(()),
        }
    }

    /// Reaps it; what has not ended by itself is killed, with all its children. The exit code.
    fn finish(&mut self, has_ended: bool) -> Result<i32> {
        let pid = self.piped.process.pid;
        if !has_ended {
            match &self.piped.apart {
                Some(apart) => apart.kill_and_remove()?,
                None => super::kill_tree::kill_tree(pid),
            }
            let _ = pidfd_send_signal(&self.piped.process.pidfd, Signal::KILL);
        }
        self.await_death()?;
        let status = waitid(WaitId::PidFd(self.piped.process.pidfd.as_fd()), WaitIdOptions::EXITED)
            .doing(|| "wait for the command")?;
        if has_ended && let Some(apart) = &self.piped.apart {
            // Children that it left behind are the container's now, in its cgroup as they are in its life.
            apart.merge_into_parent()?;
        }
        let code = status.and_then(|status| match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Some(code),
            (None, signal) => signal.map(|signal| 128 + signal),
        });
        Ok(code.unwrap_or(255))
    }
}

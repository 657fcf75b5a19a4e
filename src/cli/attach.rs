//! `coracle attach`

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::tcgetwinsize;

use super::Context;
use crate::error::{Doing, Result};
use crate::id::ContainerId;
use crate::keeper::client::{Attached, Client};
use crate::keeper::{Frame, Stream};
use crate::oci::foreground::RawMode;

/// Show a container's output from now on, and send it what is typed
///
/// On a terminal, ctrl-p ctrl-q detaches and leaves the container running.
#[derive(Debug, clap::Args)]
pub(super) struct AttachArgs {
    /// Send no input
    #[arg(long)]
    no_stdin: bool,
    /// Name of the container
    #[arg(value_name = "NAME")]
    name: String,
}

/// What to do after an event of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Stay,
    Leave,
    Ended(u8),
}

/// Runs `coracle attach`. Returns the container's exit code when it ends, 0 after detaching.
pub(super) fn run(context: &Context, args: &AttachArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.name)?;
    let client = Client::connect_for(&context.run, &id)?;
    let attached = client
        .attach(id.as_str(), !args.no_stdin)
        .map_err(|e| e.doing(format!("attach to container {id}")))?;
    let signals = crate::sys::signal::capture_all().doing(|| "wait for signals")?;
    let _raw = attached.terms().terminal.then(RawMode::enter);
    let mut session = AttachSession { stdin_open: attached.terms().stdin, attached, keys: Keys::default() };
    session.resize();
    match session.follow(context, &id, &signals)? {
        Next::Ended(code) => Ok(ExitCode::from(code)),
        Next::Stay | Next::Leave => Ok(ExitCode::SUCCESS),
    }
}

struct AttachSession {
    attached: Attached,
    stdin_open: bool,
    keys: Keys,
}

impl AttachSession {
    fn follow(&mut self, context: &Context, id: &ContainerId, signals: &OwnedFd) -> Result<Next> {
        loop {
            let stdin = rustix::stdio::stdin();
            let mut polled = vec![
                PollFd::from_borrowed_fd(self.attached.as_fd(), PollFlags::IN),
                PollFd::new(signals, PollFlags::IN),
            ];
            if self.stdin_open {
                polled.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
            }
            match poll(&mut polled, None) {
                Err(Errno::INTR) => continue,
                other => other.doing(|| "wait for the container")?,
            };
            let ready: Vec<bool> = polled.iter().map(|p| !p.revents().is_empty()).collect();
            let mut next = Next::Stay;
            if ready[0] {
                next = self.show(context, id)?;
            }
            if ready[1] {
                self.take_signals(context, id, signals);
            }
            if next == Next::Stay && ready.get(2) == Some(&true) {
                next = self.type_in()?;
            }
            if next != Next::Stay {
                return Ok(next);
            }
        }
    }

    fn show(&mut self, context: &Context, id: &ContainerId) -> Result<Next> {
        match self.attached.receive()? {
            Some(Frame::Output(Stream::Stdout, data)) => write(std::io::stdout().lock(), data)?,
            Some(Frame::Output(Stream::Stderr, data)) => write(std::io::stderr().lock(), data)?,
            Some(Frame::Lost(bytes)) => {
                crate::log::warning(&format!("{bytes} bytes of output came too fast and are not shown"));
            }
            Some(Frame::Exited(exit)) => return Ok(Next::Ended(exit.code)),
            Some(Frame::Input(_) | Frame::InputEnd | Frame::Resize(..)) => {}
            None => {
                // The keeper was killed; its standby has taken over the container.
                self.attached =
                    Client::connect_for(&context.run, id)?.attach(id.as_str(), self.stdin_open)?;
            }
        }
        Ok(Next::Stay)
    }

    fn type_in(&mut self) -> Result<Next> {
        let mut buffer = [0; 4096];
        let length = match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Err(Errno::INTR | Errno::AGAIN) => return Ok(Next::Stay),
            Ok(length) => length,
            Err(_) => 0,
        };
        if length == 0 {
            self.stdin_open = false;
            self.attached.send(&Frame::InputEnd)?;
            return Ok(Next::Stay);
        }
        let (typed, leave) = match self.attached.terms().terminal {
            true => self.keys.filter(&buffer[..length]),
            false => (buffer[..length].to_vec(), false),
        };
        if !typed.is_empty() {
            self.attached.send(&Frame::Input(&typed))?;
        }
        Ok(if leave { Next::Leave } else { Next::Stay })
    }

    fn resize(&self) {
        if self.attached.terms().terminal
            && let Ok(size) = tcgetwinsize(rustix::stdio::stdin())
        {
            let _ = self.attached.send(&Frame::Resize(size.ws_row, size.ws_col));
        }
    }

    /// Forwards signals to the container, as `launch` does in the foreground.
    fn take_signals(&self, context: &Context, id: &ContainerId, signals: &OwnedFd) {
        let mut info = [0; crate::sys::signal::SIGINFO_SIZE];
        while rustix::io::read(signals, &mut info) == Ok(info.len()) {
            match i32::from_ne_bytes([info[0], info[1], info[2], info[3]]) {
                libc::SIGWINCH => self.resize(),
                libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG | libc::SIGTTIN | libc::SIGTTOU => {}
                // The container may have just ended.
                signal => drop(crate::oci::kill::kill(&context.runtime(), id, signal, false)),
            }
        }
    }
}

fn write(mut to: impl Write, data: &[u8]) -> Result<()> {
    to.write_all(data).and_then(|()| to.flush()).doing(|| "write the container's output")
}

/// The keys that detach: ctrl-p, ctrl-q.
#[derive(Debug, Default)]
struct Keys {
    half: bool,
}

impl Keys {
    /// Returns the input for the container, and whether to detach. A ctrl-p is held back until the next key.
    fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        const CTRL_P: u8 = 16;
        const CTRL_Q: u8 = 17;
        let mut passed = Vec::with_capacity(typed.len() + 1);
        for key in typed {
            match (self.half, *key) {
                (true, CTRL_Q) => return (passed, true),
                (true, CTRL_P) => passed.push(CTRL_P),
                (false, CTRL_P) => self.half = true,
                (true, other) => {
                    self.half = false;
                    passed.extend([CTRL_P, other]);
                }
                (false, other) => passed.push(other),
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_that_leave_are_found_even_when_they_come_one_by_one() {
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(keys.filter(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(keys.filter(b"d\x10\x11e"), (b"d".to_vec(), true));
        let mut keys = Keys::default();
        assert_eq!(keys.filter(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(keys.filter(b"\x11"), (Vec::new(), true));
    }
}

//! A foreground session: forwards signals, proxies the terminal and waits for the exit code.

use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{BoxBuilder, Process};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, SocketType,
};
use rustix::process::{WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::error::{Doing, Error, Kind, Result};
use crate::sys;
use crate::sys::process::Spawned;

/// Creates a socket pair for a new terminal's master: our end, and the end for the plan.
///
/// # Errors
/// The errno of socketpair(2).
pub fn console_pair() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .doing(|| "make a socket pair for the terminal")
}

/// Sets the size of the caller's terminal as the console size, unless the configuration names one: the program may
/// read the size before the terminal's master has arrived here.
pub(super) fn inherit_terminal_size(process: &mut Process) {
    if process.console_size().is_none()
        && let Ok(size) = tcgetwinsize(rustix::stdio::stdin())
    {
        let console = BoxBuilder::default().height(u64::from(size.ws_row)).width(u64::from(size.ws_col));
        process.set_console_size(console.build().ok());
    }
}

/// Receives the master of the container's terminal.
pub(super) fn receive_master(socket: &OwnedFd) -> Result<OwnedFd> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut name = [0; 64];
    let mut buffers = [std::io::IoSliceMut::new(&mut name)];
    rustix::net::recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
        .doing(|| "receive the terminal")?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(mut fds) = message
            && let Some(master) = fds.next()
        {
            return Ok(master);
        }
    }
    Err(Error::new(Kind::Bug, "the new process sent no terminal"))
}

/// Waits until a process ends, forwarding signals and the terminal's input and output. Returns the exit code.
pub(super) fn proxy_until_exit(process: &Spawned, signals: &OwnedFd, master: Option<OwnedFd>) -> Result<i32> {
    let mut terminal = master.map(Proxy::new).transpose()?;
    loop {
        let mut polled =
            vec![PollFd::new(&process.pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        if let Some(proxy) = &terminal {
            proxy.add_to(&mut polled);
        }
        match poll(&mut polled, None) {
            Err(Errno::INTR) => continue,
            other => other.doing(|| "wait for the container")?,
        };
        let ended = !polled[0].revents().is_empty();
        let signalled = !polled[1].revents().is_empty();
        let events: Vec<PollFlags> = polled[2..].iter().map(PollFd::revents).collect();
        drop(polled);
        if let Some(proxy) = &mut terminal {
            proxy.handle(&events)?;
        }
        if signalled {
            forward(signals, process.pidfd.as_fd(), terminal.as_ref())?;
        }
        if ended {
            if let Some(proxy) = &mut terminal {
                proxy.drain();
            }
            return exit_code(process.pidfd.as_fd());
        }
    }
}

/// Reaps the process: returns its exit status, or 128 + the signal that ended it.
fn exit_code(pidfd: BorrowedFd<'_>) -> Result<i32> {
    let status = waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED).doing(|| "wait for the container")?;
    let status = status.ok_or_else(|| Error::new(Kind::Bug, "a process that ended has no status"))?;
    Ok(match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 255,
    })
}

fn forward(signals: &OwnedFd, to: BorrowedFd<'_>, terminal: Option<&Proxy>) -> Result<()> {
    let mut info = [0; sys::signal::SIGINFO_SIZE];
    loop {
        match rustix::io::read(signals, &mut info) {
            Ok(length) if length == info.len() => {}
            Ok(_) | Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(errno).doing(|| "read a signal"),
        }
        let number = i32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
        match number {
            // These are ours, not the container's: children, job control, urgent data on sockets of Go programs.
            libc::SIGCHLD | libc::SIGPIPE | libc::SIGURG | libc::SIGTTIN | libc::SIGTTOU => {}
            libc::SIGWINCH => {
                if let Some(proxy) = terminal {
                    proxy.resize();
                }
            }
            _ => {
                if let Some(signal) = super::kill::signal_from(number) {
                    // The process may have just ended.
                    let _ = pidfd_send_signal(to, signal);
                }
            }
        }
    }
}

/// Proxies between our standard streams and the master of the container's terminal.
struct Proxy {
    master: OwnedFd,
    /// Input that the terminal has not accepted yet.
    typed: Vec<u8>,
    stdin_open: bool,
    master_open: bool,
    _raw: Option<RawMode>,
}

impl Proxy {
    fn new(master: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&master, true).doing(|| "set up the terminal")?;
        let proxy =
            Self { master, typed: Vec::new(), stdin_open: true, master_open: true, _raw: RawMode::enter() };
        proxy.resize();
        Ok(proxy)
    }

    /// Sets the size of the container's terminal to that of ours.
    fn resize(&self) {
        if let Ok(size) = tcgetwinsize(rustix::stdio::stdin()) {
            let _ = tcsetwinsize(&self.master, size);
        }
    }

    fn add_to<'f>(&'f self, polled: &mut Vec<PollFd<'f>>) {
        let mut wants = PollFlags::empty();
        wants.set(PollFlags::IN, self.master_open);
        wants.set(PollFlags::OUT, !self.typed.is_empty());
        if self.master_open {
            polled.push(PollFd::new(&self.master, wants));
            if self.stdin_open && self.typed.is_empty() {
                polled.push(PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN));
            }
        }
    }

    fn handle(&mut self, events: &[PollFlags]) -> Result<()> {
        let Some(master) = events.first().copied() else { return Ok(()) };
        if master.contains(PollFlags::OUT) {
            self.write_typed();
        }
        if master.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.show()?;
        }
        if events.get(1).is_some_and(|e| !e.is_empty()) {
            self.take_typed();
        }
        Ok(())
    }

    fn take_typed(&mut self) {
        let mut buffer = [0; 4096];
        match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
            Ok(0) => {
                // At end of input send ^D, as a terminal does.
                self.stdin_open = false;
                self.typed.push(4);
            }
            Ok(length) => self.typed.extend_from_slice(&buffer[..length]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(_) => self.stdin_open = false,
        }
        self.write_typed();
    }

    fn write_typed(&mut self) {
        match rustix::io::write(&self.master, &self.typed) {
            Ok(length) => drop(self.typed.drain(..length)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.typed.clear(),
        }
    }

    /// Prints the container's output. EIO means that no process has the terminal open any more.
    fn show(&mut self) -> Result<()> {
        let mut buffer = [0; 16384];
        match rustix::io::read(&self.master, &mut buffer) {
            Ok(0) | Err(Errno::IO) => self.master_open = false,
            Ok(length) => {
                let mut out = std::io::stdout().lock();
                out.write_all(&buffer[..length])
                    .and_then(|()| out.flush())
                    .doing(|| "write to standard output")?;
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(errno) => return Err(errno).doing(|| "read the terminal"),
        }
        Ok(())
    }

    /// Prints the output that was still in the terminal when the process ended.
    fn drain(&mut self) {
        let mut buffer = [0; 16384];
        while let Ok(length) = rustix::io::read(&self.master, &mut buffer) {
            if length == 0 || std::io::stdout().write_all(&buffer[..length]).is_err() {
                break;
            }
        }
        let _ = std::io::stdout().flush();
    }
}

/// Our terminal in raw mode; dropping this restores it.
#[derive(Debug)]
pub struct RawMode(Termios);

impl RawMode {
    /// Enters raw mode, if standard input is a terminal.
    pub fn enter() -> Option<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw).ok()?;
        Some(Self(before))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.0);
    }
}

//! Opens the terminal and sets up the standard streams.

use std::mem::forget;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fchown, fstat, openat2};
use rustix::io::Errno;
use rustix::process::{Uid, ioctl_tiocsctty};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use super::{At, Init, Outcome, beneath, mount, root};
use crate::launch::steps::Slot;
use crate::launch::wire::{self, Op};
use crate::sys::process::dup_onto;

impl Init<'_> {
    /// Opens a terminal on the container's own devpts, so that its name is valid inside.
    pub(super) fn open_terminal(
        &mut self,
        slot: Slot,
        console: bool,
        size: Option<(u16, u16)>,
        uid: u32,
    ) -> Outcome {
        let opened;
        let base = match &self.root {
            Some(root) => root.as_fd(),
            None => {
                opened = root::open_root()?;
                opened.as_fd()
            }
        };
        let master = open_master(base)?;
        unlockpt(&master).at(Op::Pty)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = ioctl_tiocgptpeer(&master, flags).at(Op::Pty)?;
        if let Some((rows, columns)) = size.filter(|size| *size != (0, 0)) {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            tcsetwinsize(&slave, size).at(Op::Pty)?;
        }
        if uid != 0 {
            fchown(&slave, Some(Uid::from_raw(uid)), None).at(Op::Chown)?;
        }
        if console {
            bind_console(base, slave.as_fd())?;
        }
        wire::send_fd(self.fd(slot), b"/dev/ptmx", master.as_fd()).at(Op::Send)?;
        self.terminal = Some(slave);
        Ok(())
    }

    pub(super) fn take_terminal(&self) -> Outcome {
        let Some(terminal) = &self.terminal else { return Err((Op::Pty, Errno::BADF)) };
        ioctl_tiocsctty(terminal).at(Op::Pty)?;
        (0..=2).try_for_each(|number| dup_onto(terminal.as_fd(), number).at(Op::Dup))
    }
}

fn open_master(base: BorrowedFd<'_>) -> Outcome<std::os::fd::OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let open = |path| openat2(base, path, flags, Mode::empty(), resolve);
    let master = match open(c"dev/pts/ptmx") {
        Err(Errno::NOENT) => open(c"dev/ptmx"),
        other => other,
    }
    .at(Op::Open)?;
    // A planted file of that name would redirect the bind mount that follows (CVE-2025-52565).
    let is_ptmx = fstat(&master).at(Op::Stat)?.st_rdev == rustix::fs::makedev(5, 2);
    if is_ptmx { Ok(master) } else { Err((Op::Pty, Errno::NOTTY)) }
}

fn bind_console(base: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Outcome {
    let parent = beneath::open(base, c"dev", OFlags::DIRECTORY, ResolveFlags::empty()).at(Op::Open)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match rustix::fs::openat(&parent, c"console", flags, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err((Op::Open, errno)),
    }
    let target = beneath::open(parent.as_fd(), c"console", OFlags::NOFOLLOW, ResolveFlags::NO_SYMLINKS)
        .at(Op::Open)?;
    let tree = mount::clone_of(slave, false)?;
    mount::attach_to(&tree, &target)?;
    forget(tree);
    Ok(())
}

/// Changes the owner of inherited pipes, sockets and terminals, so that the user can open them by their names in
/// /proc/self/fd.
pub(super) fn give_streams(uid: u32) {
    if uid == 0 {
        return;
    }
    let null = rustix::fs::makedev(1, 3);
    let streams = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for stream in streams {
        let Ok(stat) = fstat(stream) else { continue };
        let kind = FileType::from_raw_mode(stat.st_mode);
        let passed_on = matches!(kind, FileType::Fifo | FileType::Socket | FileType::CharacterDevice);
        if passed_on && stat.st_uid != uid && stat.st_rdev != null {
            // In a user namespace that does not map the owner, chown(2) is denied; the stream itself still works.
            let _ = fchown(stream, Some(Uid::from_raw(uid)), None);
        }
    }
}

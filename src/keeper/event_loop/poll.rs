//! epoll(7), and what the descriptors in it are.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

/// What a polled descriptor is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(in crate::keeper) enum What {
    Listener,
    Signals,
    Standby,
    Client,
    Launcher,
    Console,
    Process,
    Stdin,
    Stdout,
    Stderr,
    Child,
}

impl What {
    const ALL: [Self; 11] = [
        Self::Listener,
        Self::Signals,
        Self::Standby,
        Self::Client,
        Self::Launcher,
        Self::Console,
        Self::Process,
        Self::Stdin,
        Self::Stdout,
        Self::Stderr,
        Self::Child,
    ];
}

/// Identifies a polled descriptor: its kind, and the key of its container, client or child.
pub(in crate::keeper) type Token = (What, u32);

fn pack((what, key): Token) -> EventData {
    EventData::new_u64(u64::from(what as u8) << 32 | u64::from(key))
}

fn unpack(data: EventData) -> Option<Token> {
    let (what, key) = (data.u64() >> 32, u32::try_from(data.u64() & 0xffff_ffff).ok()?);
    Some((*What::ALL.get(usize::try_from(what).ok()?)?, key))
}

/// An epoll(7) instance.
#[derive(Debug)]
pub(in crate::keeper) struct Poll(OwnedFd);

impl Poll {
    pub(in crate::keeper) fn new() -> Result<Self, Errno> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Self)
    }

    /// Waits for input, and for the other side to go, for as long as there is some.
    pub(in crate::keeper) fn add(&self, fd: impl AsFd, token: Token) {
        self.set(fd, token, EventFlags::IN);
    }

    /// Waits for input that has come since it was last looked for.
    pub(in crate::keeper) fn add_edge(&self, fd: impl AsFd, token: Token) {
        self.set(fd, token, EventFlags::IN | EventFlags::ET);
    }

    /// Waits for these from now on.
    pub(in crate::keeper) fn set(&self, fd: impl AsFd, token: Token, flags: EventFlags) {
        // This fails only when the kernel is out of memory.
        let _ = match epoll::add(&self.0, &fd, pack(token), flags) {
            Err(Errno::EXIST) => epoll::modify(&self.0, &fd, pack(token), flags),
            other => other,
        };
    }

    /// Waits no longer.
    pub(in crate::keeper) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }

    pub(super) fn wait(&self, longest: Option<Duration>) -> Vec<(Token, EventFlags)> {
        let mut buffer = [MaybeUninit::uninit(); 32];
        let longest = longest.and_then(|time| time.try_into().ok());
        let (events, _) = match epoll::wait(&self.0, &mut buffer, longest.as_ref()) {
            Ok(found) => found,
            Err(_) => return Vec::new(),
        };
        events.iter().filter_map(|event| Some((unpack(event.data)?, event.flags))).collect()
    }
}

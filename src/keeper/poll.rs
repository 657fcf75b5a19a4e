//! The one loop: what the kernel has to say, one thing after the other. It sleeps until there is something; there are
//! timers only while a launch is not decided, and for how long one may put off an end.

use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;

use super::clients::Clients;
use super::container::Container;
use super::record::RunDir;
use super::standby::Standby;
use super::stream::{Desk, Look};
use super::upgrade::Upgrade;
use super::wire::Stream;

/// What a descriptor that is waited for is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum What {
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

/// What is waited for: what it is, and which of its kind.
pub(super) type Token = (What, u32);

fn pack((what, key): Token) -> EventData {
    EventData::new_u64(u64::from(what as u8) << 32 | u64::from(key))
}

fn unpack(data: EventData) -> Option<Token> {
    let (what, key) = (data.u64() >> 32, u32::try_from(data.u64() & 0xffff_ffff).ok()?);
    Some((*What::ALL.get(usize::try_from(what).ok()?)?, key))
}

/// An epoll(7) instance.
#[derive(Debug)]
pub(super) struct Poll(OwnedFd);

impl Poll {
    pub(super) fn new() -> Result<Self, Errno> {
        epoll::create(epoll::CreateFlags::CLOEXEC).map(Self)
    }

    /// Waits for input, and for the other side to go, for as long as there is some.
    pub(super) fn add(&self, fd: impl AsFd, token: Token) {
        self.set(fd, token, EventFlags::IN);
    }

    /// Waits for input that has come since it was last looked for.
    pub(super) fn add_edge(&self, fd: impl AsFd, token: Token) {
        self.set(fd, token, EventFlags::IN | EventFlags::ET);
    }

    /// Waits for these from now on.
    pub(super) fn set(&self, fd: impl AsFd, token: Token, flags: EventFlags) {
        // All that fails here is want of memory in the kernel: then nothing can be promised any more.
        let _ = match epoll::add(&self.0, &fd, pack(token), flags) {
            Err(Errno::EXIST) => epoll::modify(&self.0, &fd, pack(token), flags),
            other => other,
        };
    }

    /// Waits no longer.
    pub(super) fn remove(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.0, fd);
    }

    fn wait(&self, longest: Option<Duration>) -> Vec<(Token, EventFlags)> {
        let mut buffer = [MaybeUninit::uninit(); 32];
        let longest = longest.and_then(|time| time.try_into().ok());
        let (events, _) = match epoll::wait(&self.0, &mut buffer, longest.as_ref()) {
            Ok(found) => found,
            Err(_) => return Vec::new(),
        };
        events.iter().filter_map(|event| Some((unpack(event.data)?, event.flags))).collect()
    }
}

/// Why a keeper ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// By a signal.
    Signalled,
    /// Another has all that it had.
    Replaced,
}

/// The keeper.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) poll: Poll,
    pub(super) run_dir: RunDir,
    pub(super) listener: OwnedFd,
    pub(super) lock: OwnedFd,
    pub(super) signals: OwnedFd,
    pub(super) standby: Option<Standby>,
    pub(super) containers: BTreeMap<u32, Container>,
    pub(super) clients: Clients,
    /// Processes that are only waited for: commands at a container's end.
    pub(super) children: BTreeMap<u32, OwnedFd>,
    pub(super) desk: Desk,
    /// Where messages are received: as large as one may be, touched only as far as they are.
    pub(super) inbox: Vec<u8>,
    pub(super) next: u32,
    /// Streams that had more when their turn was over.
    pub(super) unfinished: Vec<Token>,
    pub(super) upgrade: Upgrade,
    /// This client is to be the keeper as soon as nothing is being launched.
    pub(super) successor: Option<u32>,
    pub(super) end: Option<End>,
    /// What is on its way when a signal ends the keeper may take until then.
    pub(super) grace: Option<Instant>,
}

/// How long a launch may take when a signal ends the keeper.
const GRACE: Duration = Duration::from_secs(2);

impl Keeper {
    /// Serves until there is a reason to end.
    pub(super) fn run(&mut self) -> End {
        // What only a start needs may go.
        crate::sys::memory::unmap_code();
        loop {
            if let Some(end) = self.may_end() {
                return end;
            }
            let waits = [self.left_of_grace(), self.left_of_timers(), self.upgrade.left()];
            let longest = match self.unfinished.is_empty() {
                true => waits.into_iter().flatten().min(),
                false => Some(Duration::ZERO),
            };
            for (token, flags) in self.poll.wait(longest) {
                self.handle(token, flags);
            }
            for token in std::mem::take(&mut self.unfinished) {
                self.handle(token, EventFlags::IN);
            }
            self.look_at_timers();
            self.look_at_upgrade();
            self.pass_on();
        }
    }

    /// The reason to end, once nothing is on its way.
    fn may_end(&self) -> Option<End> {
        let in_vain = self.left_of_grace().is_none_or(|left| left.is_zero());
        self.end.filter(|_| in_vain || !self.containers.values().any(Container::is_arriving))
    }

    fn left_of_grace(&self) -> Option<Duration> {
        self.grace.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Does what has to wait until nothing is being launched: a launch goes over to nobody, and a terminal that has not
    /// come yet only to the next image of this process.
    fn pass_on(&mut self) {
        let any = |is: fn(&Container) -> bool| self.containers.values().any(is);
        if self.successor.is_some() && !any(Container::is_arriving) {
            if let Some(client) = self.successor.take() {
                self.hand_over_to(client);
            }
        } else if self.upgrade == Upgrade::Ready && !any(Container::is_launching) {
            self.upgrade = Upgrade::None;
            self.reexecute();
        }
    }

    /// A number that nothing here has.
    pub(super) fn new_key(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1);
            let key = self.next;
            let taken = self.containers.contains_key(&key)
                || self.clients.contains(key)
                || self.children.contains_key(&key);
            if !taken {
                return key;
            }
        }
    }

    fn handle(&mut self, (what, key): Token, flags: EventFlags) {
        match what {
            What::Listener => self.accept(),
            What::Signals => self.take_signals(),
            What::Standby => self.standby_is_gone(),
            What::Client => self.serve_client(key, flags),
            What::Launcher => self.launcher_reported(key),
            What::Console => self.take_console(key),
            What::Process => self.process_ended(key),
            What::Stdin => self.write_input(key),
            What::Stdout | What::Stderr => {
                // A terminal takes input again.
                if flags.contains(EventFlags::OUT) {
                    self.write_input(key);
                }
                self.look((what, key));
            }
            What::Child => self.reap(key),
        }
    }

    fn look(&mut self, token: Token) {
        let (what, key) = token;
        let Some(container) = self.containers.get_mut(&key) else { return };
        let clients = &mut self.clients;
        let (source, stream) = match what {
            What::Stderr => (&mut container.stderr, Stream::Stderr),
            _ => (&mut container.stdout, Stream::Stdout),
        };
        let Some(source) = source else { return };
        let mut show = |new: &[u8]| clients.show(key, stream, new);
        match source.look(&mut self.desk, &mut container.log, &mut show) {
            Look::Empty => {}
            Look::More => self.unfinished.push(token),
            Look::Closed => self.poll.remove(&source.fd),
        }
    }

    fn take_signals(&mut self) {
        let mut info = [0; crate::sys::signal::SIGINFO_SIZE];
        while rustix::io::read(&self.signals, &mut info) == Ok(info.len()) {
            match i32::from_ne_bytes([info[0], info[1], info[2], info[3]]) {
                libc::SIGHUP => self.begin_upgrade(),
                // The containers stay: a later keeper finds them by their records.
                libc::SIGTERM | libc::SIGINT => {
                    self.end = Some(End::Signalled);
                    self.grace.get_or_insert(Instant::now() + GRACE);
                }
                _ => {}
            }
        }
    }

    fn reap(&mut self, key: u32) {
        if let Some(pidfd) = self.children.remove(&key) {
            self.poll.remove(&pidfd);
            let has_succeeded = super::spawn::reap_now(&pidfd);
            self.program_has_answered(key, has_succeeded);
        }
    }
}

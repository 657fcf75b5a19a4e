//! Upgrading: the keeper executes its program anew. Its pid stays, so its children stay its children; all it knows goes
//! through a file in memory, and what it has open stays open.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::birth::Limits;
use super::clients::{Clients, Mode};
use super::container::{Container, complain};
use super::heir::Heir;
use super::log::Lost;
use super::machine::State;
use super::poll::{Keeper, Poll, What};
use super::record::{Ends, Place, Record};
use super::stream::{Desk, Source};
use super::succession::begin_to_serve;
use super::wire::{Exit, Stream};
use crate::error::{Doing, Error, Kind, Result};
use crate::sys;
use crate::sys::fd::{inherit, set_inheritable};
use crate::sys::process::{StringArray, execve};

/// Of this form. An image that does not know it goes by the records on disk, as after a crash.
const VERSION: u32 = 2;

/// Everything, with descriptors as numbers.
#[derive(Debug, Serialize, Deserialize)]
struct Handover {
    version: u32,
    before: (u64, String),
    listener: i32,
    lock: i32,
    heir: Option<(i32, i32)>,
    children: Vec<(u32, i32)>,
    containers: Vec<(u32, Passed)>,
    clients: Vec<(u32, i32, Mode, u64, Option<Exit>)>,
}

/// A container.
#[derive(Debug, Serialize, Deserialize)]
struct Passed {
    record: Record,
    state: State,
    client: Option<u32>,
    process: Option<i32>,
    console: Option<i32>,
    stdin: Option<i32>,
    input: Vec<u8>,
    closing: bool,
    stdout: Option<(i32, usize, Vec<u8>)>,
    stderr: Option<(i32, usize, Vec<u8>)>,
    lost: Lost,
    exit: Option<Exit>,
}

impl Passed {
    fn of(container: &Container) -> Self {
        let number = |fd: &Option<OwnedFd>| fd.as_ref().map(AsRawFd::as_raw_fd);
        let source = |source: &Option<Source>| {
            source.as_ref().map(|s| (s.fd.as_raw_fd(), s.seen(), s.tail().to_vec()))
        };
        Self {
            record: container.record.clone(),
            state: container.state,
            client: container.client,
            process: number(&container.process),
            console: number(&container.console),
            stdin: number(&container.stdin),
            input: container.input.clone(),
            closing: container.closing,
            stdout: source(&container.stdout),
            stderr: source(&container.stderr),
            lost: container.log.lost.clone(),
            exit: container.exit,
        }
    }

    fn take(self) -> Result<Container, Errno> {
        let take = |number: Option<i32>| number.map(inherit).transpose();
        let has_terminal = self.record.order.has_console;
        let source = |passed: Option<(i32, usize, Vec<u8>)>, stream| {
            passed.map(|(number, seen, tail)| {
                let fd = inherit(number)?;
                Ok(if has_terminal { Source::terminal(fd, tail) } else { Source::fifo(fd, stream, seen) })
            })
        };
        let mut container = Container::new(self.record, self.state, Ends::default());
        container.client = self.client;
        container.process = take(self.process)?;
        container.console = take(self.console)?;
        container.stdin = take(self.stdin)?;
        container.input = self.input;
        container.closing = self.closing;
        container.stdout = source(self.stdout, Stream::Stdout).transpose()?;
        container.stderr = source(self.stderr, Stream::Stderr).transpose()?;
        container.log.lost = self.lost;
        container.exit = self.exit;
        Ok(container)
    }
}

impl Keeper {
    /// Executes the program anew. When that cannot be done, this image goes on.
    pub(super) fn hand_over(&mut self) {
        let kept = self.kept_open();
        for fd in &kept {
            let _ = set_inheritable(fd, true);
        }
        let error = self.execute();
        for fd in &kept {
            let _ = set_inheritable(fd, false);
        }
        complain(&format!("upgrade: {}", error.chain()));
    }

    /// All that the next image is to find open.
    fn kept_open(&self) -> Vec<&OwnedFd> {
        let own = [&self.listener, &self.lock].into_iter();
        let heir = self.heir.iter().flat_map(|heir| [&heir.socket, &heir.pidfd]);
        let clients = self.clients.0.values().map(|client| &client.socket);
        let containers = self.containers.values().flat_map(|c| {
            let sources = c.stdout.iter().chain(&c.stderr).map(|source| &source.fd);
            c.process.iter().chain(&c.console).chain(&c.stdin).chain(sources)
        });
        own.chain(heir).chain(self.children.values()).chain(clients).chain(containers).collect()
    }

    fn execute(&self) -> Error {
        let prepared = self.write_handover().and_then(|file| Ok((self.command_line(&file)?, file)));
        let ((program, argv, envp), _file) = match prepared {
            Ok(prepared) => prepared,
            Err(error) => return error,
        };
        let errno = execve(&program, &argv, &envp);
        Error::new(Kind::System, format!("execute {}", program.to_string_lossy())).because(errno)
    }

    fn write_handover(&self) -> Result<OwnedFd> {
        let handover = Handover {
            version: VERSION,
            before: Limits::before(),
            listener: self.listener.as_raw_fd(),
            lock: self.lock.as_raw_fd(),
            heir: self.heir.as_ref().map(|heir| (heir.socket.as_raw_fd(), heir.pidfd.as_raw_fd())),
            children: self.children.iter().map(|(key, fd)| (*key, fd.as_raw_fd())).collect(),
            containers: self.containers.iter().map(|(key, c)| (*key, Passed::of(c))).collect(),
            clients: self.clients.pass(),
        };
        let bytes = postcard::to_allocvec(&handover)
            .map_err(|_| Error::new(Kind::Bug, "the keeper's state cannot be written"))?;
        // Stays open over execve.
        let file = memfd_create(c"keeper", MemfdFlags::empty()).doing(|| "make a file in memory")?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let count = rustix::io::write(&file, rest).doing(|| "write the keeper's state")?;
            rest = &rest[count..];
        }
        Ok(file)
    }

    fn command_line(&self, file: &OwnedFd) -> Result<(CString, StringArray, StringArray)> {
        let string = |bytes: &[u8]| {
            CString::new(bytes).map_err(|_| Error::new(Kind::Invalid, "a path holds a zero byte"))
        };
        let program = crate::launch::self_protect::own_path()
            .ok_or_else(|| Error::new(Kind::NotFound, "the keeper does not know where its program is"))?;
        let program = string(program.as_os_str().as_bytes())?;
        let run = self.place.run().as_os_str();
        let number = file.as_raw_fd().to_string();
        let words = [
            // Not the program's path: `coracle` is the keeper under this name only.
            super::start::NAME.as_ref(),
            "--run".as_ref(),
            run,
            "--resume".as_ref(),
            number.as_ref(),
        ];
        let argv = words.iter().map(|word| string(word.as_bytes())).collect::<Result<Vec<_>>>()?;
        // What systemd has handed over is of the first image.
        let of_first = |name: &OsStr| name.as_bytes().starts_with(b"LISTEN_");
        let env = std::env::vars_os()
            .filter(|(name, _)| !of_first(name))
            .map(|(k, v)| string(&[k.as_bytes(), b"=", v.as_bytes()].concat()));
        let envp = env.collect::<Result<Vec<_>>>()?;
        Ok((program, StringArray::new(argv), StringArray::new(envp)))
    }
}

/// The keeper that an earlier image handed over.
///
/// # Errors
/// The file does not hold one that this image understands.
pub(super) fn resume(run: &Path, file: i32) -> Result<Keeper> {
    let doing = || "read what the earlier keeper left";
    let file = inherit(file).doing(doing)?;
    let size = rustix::fs::fstat(&file).doing(doing)?.st_size;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    let length = rustix::io::pread(&file, &mut bytes, 0).doing(doing)?;
    let handover: Handover = postcard::from_bytes(&bytes[..length])
        .map_err(|_| Error::new(Kind::Unsupported, "the earlier keeper was of another version"))?;
    if handover.version != VERSION {
        return Err(Error::new(Kind::Unsupported, "the earlier keeper was of another version"));
    }
    drop(file);
    take(run, handover).doing(doing)
}

fn take(run: &Path, handover: Handover) -> Result<Keeper, Errno> {
    Limits::raise(Some(handover.before));
    let heir = handover
        .heir
        .map(|(socket, pidfd)| Ok::<_, Errno>(Heir { socket: inherit(socket)?, pidfd: inherit(pidfd)? }));
    let mut containers = BTreeMap::new();
    for (key, passed) in handover.containers {
        containers.insert(key, passed.take()?);
    }
    let mut clients = Clients::default();
    for (key, socket, mode, lost, goodbye) in handover.clients {
        clients.take(key, inherit(socket)?, mode, lost, goodbye);
    }
    let children = handover.children.into_iter().map(|(key, fd)| Ok((key, inherit(fd)?)));
    let lock = inherit(handover.lock)?;
    // It went over with the process, except from an image that did not know of it.
    begin_to_serve(&lock)?;
    let mut keeper = Keeper {
        poll: Poll::new()?,
        place: Place::new(run),
        listener: inherit(handover.listener)?,
        lock,
        signals: sys::signal::capture_all()?,
        heir: heir.transpose()?,
        containers,
        clients,
        children: children.collect::<Result<_, Errno>>()?,
        desk: Desk::new()?,
        inbox: vec![0; super::wire::MOST],
        next: 0,
        unfinished: Vec::new(),
        upgrade: false,
        successor: None,
        end: None,
        grace: None,
    };
    keeper.watch_all();
    Ok(keeper)
}

impl Keeper {
    /// Waits for all that there is.
    pub(super) fn watch_all(&mut self) {
        self.poll.add(&self.listener, (What::Listener, 0));
        self.poll.add(&self.signals, (What::Signals, 0));
        for (key, child) in &self.children {
            self.poll.add(child, (What::Child, *key));
        }
        for (key, client) in &self.clients.0 {
            self.poll.add(client.socket.as_fd(), (What::Client, *key));
        }
        for key in self.containers.keys().copied().collect::<Vec<_>>() {
            self.watch(key);
            // Input that waited for its container goes on waiting.
            self.write_input(key);
            for client in self.clients.goodbyes() {
                self.serve_client(client, rustix::event::epoll::EventFlags::OUT);
            }
        }
    }
}

//! Upgrading: the keeper executes its program anew. Its pid stays, so its children stay its children; all it knows goes
//! through a file in memory, and what it has open stays open.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::lock::begin_to_serve;
use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::event_loop::{
    Container, Ends, Keeper, Limits, Lost, Mode, Record, RunDir, Source, Standby, State,
};
use crate::keeper::own_log::warn;
use crate::keeper::program::NAME;
use crate::keeper::protocol::Stream;
use crate::record::Exit;
use crate::record::format::{KEEPER_PROTOCOL, KEEPER_SNAPSHOT, Unreadable};
use crate::sys::fd::{inherit, set_inheritable};
use crate::sys::process::{StringArray, execve};

/// Everything, with descriptors as numbers.
#[derive(Debug, Serialize, Deserialize)]
struct ProcessSnapshot {
    before: (u64, String),
    listener: i32,
    lock: i32,
    standby: Option<(i32, i32)>,
    children: Vec<(u32, i32)>,
    containers: Vec<(u32, ContainerSnapshot)>,
    clients: Vec<(u32, i32, Mode, u64, Option<Exit>)>,
}

/// A container.
#[derive(Debug, Serialize, Deserialize)]
struct ContainerSnapshot {
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

impl ContainerSnapshot {
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

/// Executes the program anew. When that cannot be done, this image goes on.
pub(in crate::keeper) fn reexecute(keeper: &Keeper) {
    let kept = kept_open(keeper);
    for fd in &kept {
        let _ = set_inheritable(fd, true);
    }
    let error = execute(keeper);
    for fd in &kept {
        let _ = set_inheritable(fd, false);
    }
    warn(&format!("upgrade: {}", error.chain()));
}

/// All that the next image is to find open.
fn kept_open(keeper: &Keeper) -> Vec<&OwnedFd> {
    let own = [&keeper.listener, &keeper.lock].into_iter();
    let standby = keeper.standby.iter().flat_map(|standby| [&standby.socket, &standby.pidfd]);
    let clients = keeper.clients.0.values().map(|client| &client.socket);
    let containers = keeper.containers.values().flat_map(|c| {
        let sources = c.stdout.iter().chain(&c.stderr).map(|source| &source.fd);
        c.process.iter().chain(&c.console).chain(&c.stdin).chain(sources)
    });
    own.chain(standby).chain(keeper.children.values()).chain(clients).chain(containers).collect()
}

fn execute(keeper: &Keeper) -> Error {
    let prepared =
        write_snapshot(keeper).and_then(|file| Ok((command_line(keeper.run_dir.run(), &file)?, file)));
    let ((program, argv, envp), _file) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return error,
    };
    let errno = execve(&program, &argv, &envp);
    Error::new(Kind::System, format!("execute {}", program.to_string_lossy())).because(errno)
}

fn write_snapshot(keeper: &Keeper) -> Result<OwnedFd> {
    let snapshot = ProcessSnapshot {
        before: Limits::before(),
        listener: keeper.listener.as_raw_fd(),
        lock: keeper.lock.as_raw_fd(),
        standby: keeper
            .standby
            .as_ref()
            .map(|standby| (standby.socket.as_raw_fd(), standby.pidfd.as_raw_fd())),
        children: keeper.children.iter().map(|(key, fd)| (*key, fd.as_raw_fd())).collect(),
        containers: keeper.containers.iter().map(|(key, c)| (*key, ContainerSnapshot::of(c))).collect(),
        clients: keeper.clients.pass(),
    };
    let state = (KEEPER_PROTOCOL.version, snapshot);
    let bytes = KEEPER_SNAPSHOT.encode(&state).map_err(|e| e.while_doing("write the keeper's state"))?;
    // Stays open over execve.
    let file = memfd_create(c"keeper", MemfdFlags::empty()).doing(|| "make a file in memory")?;
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest).doing(|| "write the keeper's state")?;
        rest = &rest[count..];
    }
    Ok(file)
}

fn command_line(run: &Path, file: &OwnedFd) -> Result<(CString, StringArray, StringArray)> {
    let string =
        |bytes: &[u8]| CString::new(bytes).map_err(|_| Error::new(Kind::Invalid, "a path holds a zero byte"));
    let program = crate::launch::self_protect::own_path()
        .ok_or_else(|| Error::new(Kind::NotFound, "the keeper does not know where its program is"))?;
    let program = string(program.as_os_str().as_bytes())?;
    let run = run.as_os_str();
    let number = file.as_raw_fd().to_string();
    // Not the program's path: `coracle` is the keeper under this name only.
    let words = [NAME.as_ref(), "--run".as_ref(), run, "--resume".as_ref(), number.as_ref()];
    let argv = words.iter().map(|word| string(word.as_bytes())).collect::<Result<Vec<_>>>()?;
    // What systemd has handed over is of the first image.
    let of_first = |name: &OsStr| name.as_bytes().starts_with(b"LISTEN_");
    let env = std::env::vars_os()
        .filter(|(name, _)| !of_first(name))
        .map(|(k, v)| string(&[k.as_bytes(), b"=", v.as_bytes()].concat()));
    let envp = env.collect::<Result<Vec<_>>>()?;
    Ok((program, StringArray::new(argv), StringArray::new(envp)))
}

/// The keeper that an earlier image handed over.
///
/// # Errors
/// The file does not hold one that this image understands.
pub(in crate::keeper) fn resume(run: &Path, file: i32) -> Result<Keeper> {
    let doing = || "read what the earlier keeper left";
    let file = inherit(file).doing(doing)?;
    let size = rustix::fs::fstat(&file).doing(doing)?.st_size;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    let length = rustix::io::pread(&file, &mut bytes, 0).doing(doing)?;
    let (protocol, snapshot) = decode(&bytes[..length]).map_err(|error| error.while_doing(doing()))?;
    drop(file);
    let mut keeper = take(run, snapshot).doing(doing)?;
    if protocol != KEEPER_PROTOCOL.version {
        // These clients speak the former version. Disconnected, they connect again and find out.
        for client in keeper.clients.0.keys().copied().collect::<Vec<_>>() {
            keeper.client_left(client);
        }
    }
    Ok(keeper)
}

/// The version of the protocol that the clients speak, and the state.
fn decode(bytes: &[u8]) -> Result<(u16, ProcessSnapshot), Unreadable> {
    match KEEPER_SNAPSHOT.split(bytes)? {
        // Version 2 had its number in this place, and no head.
        (1, [2, body @ ..]) => Ok((1, KEEPER_SNAPSHOT.read_body(body)?)),
        _ => KEEPER_SNAPSHOT.decode(bytes),
    }
}

fn take(run: &Path, snapshot: ProcessSnapshot) -> Result<Keeper, Errno> {
    Limits::raise(Some(snapshot.before));
    let lock = inherit(snapshot.lock)?;
    // It went over with the process, except from an image that did not know of it.
    begin_to_serve(&lock)?;
    let mut keeper = Keeper::new(RunDir::new(run), inherit(snapshot.listener)?, lock)?;
    if let Some((socket, pidfd)) = snapshot.standby {
        keeper.standby = Some(Standby { socket: inherit(socket)?, pidfd: inherit(pidfd)? });
    }
    for (key, passed) in snapshot.containers {
        keeper.containers.insert(key, passed.take()?);
    }
    for (key, socket, mode, lost, goodbye) in snapshot.clients {
        keeper.clients.take(key, inherit(socket)?, mode, lost, goodbye);
    }
    for (key, child) in snapshot.children {
        keeper.children.insert(key, inherit(child)?);
    }
    keeper.watch_all();
    Ok(keeper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::event_loop::Ran;
    use crate::keeper::protocol::Order;
    use crate::record::golden;

    fn snapshot() -> ProcessSnapshot {
        let exit = Exit { code: 3, at_ns: 1_767_225_600_000_000_000, ..Exit::default() };
        let states = [
            State::Launching,
            State::Void,
            State::Attended,
            State::Unattended,
            State::Kept,
            State::EndedEarly(Ran::Unknown),
            State::GivenUp,
            State::Gone,
        ];
        let container = |state| ContainerSnapshot {
            record: Record {
                order: Order { id: "box".to_owned(), ..Order::default() },
                pid: 7,
                start_time: 70_000,
                kept: true,
            },
            state,
            client: Some(2),
            process: Some(9),
            console: None,
            stdin: Some(10),
            input: b"in".to_vec(),
            closing: true,
            stdout: Some((11, 5, Vec::new())),
            stderr: Some((12, 0, b"tail".to_vec())),
            lost: Lost::default(),
            exit: Some(exit),
        };
        let modes = [
            Mode::Asking,
            Mode::Attending(1),
            Mode::Waiting(1),
            Mode::Settling(1),
            Mode::Attached { key: 1, stdin: true },
            Mode::Watching,
        ];
        let clients = (20..).zip(modes).map(|(key, mode)| (key, 13, mode, 70_000, Some(exit)));
        ProcessSnapshot {
            before: (1024, "0".to_owned()),
            listener: 3,
            lock: 4,
            standby: Some((5, 6)),
            children: vec![(7, 8)],
            containers: (1..).zip(states).map(|(key, state)| (key, container(state))).collect(),
            clients: clients.collect(),
        }
    }

    fn same(one: &ProcessSnapshot, other: &ProcessSnapshot) -> bool {
        format!("{one:?}") == format!("{other:?}")
    }

    #[test]
    fn golden_states() {
        let bytes = KEEPER_SNAPSHOT.encode(&(KEEPER_PROTOCOL.version, snapshot())).unwrap();
        golden::check("src/keeper/golden", "snapshot", KEEPER_SNAPSHOT, &[("state", bytes.clone())]);
        for (_, before) in golden::samples("src/keeper/golden", "snapshot", 2) {
            let (protocol, state) = decode(&before).unwrap();
            assert!(protocol == 1 && same(&state, &snapshot()), "of the release before: {state:?}");
        }
        let (protocol, state) = decode(&bytes).unwrap();
        assert!(protocol == KEEPER_PROTOCOL.version && same(&state, &snapshot()), "{state:?}");
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        let mut other = bytes;
        other[2] = 9;
        let error = decode(&other).unwrap_err();
        assert!(error.to_string().contains("version 9 of the keeper's state"), "{error}");
        assert!(decode(&[3, 0, 0]).unwrap_err().is_of_another_release());
    }

    proptest::proptest! {
        #[test]
        fn noise_is_an_error_and_never_a_panic(bytes: Vec<u8>) {
            let _ = decode(&bytes);
            let _ = decode(&[&KEEPER_SNAPSHOT.head(), &bytes[..]].concat());
        }
    }
}

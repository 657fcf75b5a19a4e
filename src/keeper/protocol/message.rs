//! The messages, and what they are made of.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::record::Exit;

/// What becomes of a container's standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// It reads end of file at once.
    #[default]
    None,
    /// It stays open until somebody closes it.
    Open,
    /// It is closed when the first client that was attached to it leaves.
    Once,
}

/// A container to be launched and kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name; no two live containers share one.
    pub id: String,
    /// The file that gets its output, in the CRI's format; without one it is only shown to who is attached.
    pub log: Option<PathBuf>,
    /// The file that gets its [`Exit`], as text.
    pub exit_file: Option<PathBuf>,
    /// What is executed once it has ended.
    pub exit_command: Vec<String>,
    /// The cgroup file with an `oom_kill` line.
    pub oom_file: Option<PathBuf>,
    /// Its standard input.
    pub stdin: Stdin,
    /// A cgroup v2 directory comes along, to be created in.
    pub has_cgroup: bool,
    /// The end of a socket pair comes along, over which the container's terminal comes.
    pub has_console: bool,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::keeper) enum Request {
    /// Launch a container: with the plan in a file, the child's end of its socket pair, perhaps the cgroup and our end for
    /// the console, then what the plan has opened. Answer: `Spawned` with a pidfd, or `Refused`.
    Launch(Order),
    /// The container that this connection launched stays. Answer: `Done`.
    Keep,
    /// The container that this connection launched is not to be; it is being killed. Answer: `Done`.
    GiveUp,
    /// Wait for a container's end. Answer: `Exited`, or `Refused` when there is none.
    Wait(String),
    /// Show a container's output from now on; with `stdin` it gets what the client sends. Answer: `Attached`, then frames.
    Attach {
        /// Which.
        id: String,
        /// The client's input is the container's.
        stdin: bool,
    },
    /// Close a container's standard input. Answer: `Done`.
    CloseStdin(String),
    /// Set the size of a container's terminal. Answer: `Done`.
    Resize {
        /// Which.
        id: String,
        /// Height in rows.
        rows: u16,
        /// Width in columns.
        columns: u16,
    },
    /// Open a container's log anew by its path. Answer: `Done`.
    Reopen(String),
    /// Report every container's end from now on. Answer: `Done`, then `Ended` each time.
    Watch,
    /// Answer: `Listed`.
    List,
    /// Leave all to this client, who is the keeper then. Answer: `HandedOver` with the listening socket and the lock, then the
    /// messages that a standby gets.
    TakeOver,
    /// The container that this connection launched goes on as this process, a forked copy of the first one and a child of
    /// the keeper's too; the first one is ended. Answer: `Spawned` with a pidfd.
    Adopt(i32),
    /// The client has asked another keeper to launch this container, which was killed before its answer came. With
    /// `console`, our end for the terminal comes along again. Answer: `Spawned` with a pidfd, and the connection attends the
    /// container; or `Refused` when there is none, once nothing of it is left.
    Resume {
        /// Which.
        id: String,
        /// The end of a socket pair comes along, over which the container's terminal comes.
        console: bool,
    },
    /// As `Keep` and `GiveUp`, of a container that the client has launched by another keeper. Answer: `Done`, or `Refused`
    /// when there is none.
    Decide {
        /// Which.
        id: String,
        /// It stays.
        keep: bool,
    },
    /// Wait until it is decided what becomes of a launch whose client is gone. Answer: `Done` when its program was run,
    /// `Refused` when there is no such container, or none any more.
    Settle(String),
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::keeper) enum Response {
    /// A container's first process, in the keeper's PID namespace; its pidfd comes along.
    Spawned(i32),
    /// It is done.
    Done,
    /// Frames follow.
    Attached(Terms),
    /// It cannot be done.
    Refused(Refusal),
    /// A container has ended.
    Exited(Exit),
    /// The containers, with the pids of their first processes.
    Listed(Vec<(String, i32)>),
    /// This container has ended.
    Ended(String, Exit),
    /// All this is the client's now.
    HandedOver,
}

/// On which terms a client is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The container has a terminal.
    pub terminal: bool,
    /// Its standard input is open, and what the client sends gets there.
    pub stdin: bool,
}

/// Why something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::keeper) enum Refusal {
    /// There is no such container.
    Unknown,
    /// There is one of that name.
    Exists,
    /// It has no open standard input, or no terminal.
    Closed,
    /// Something failed: the text says what.
    Failed(String),
}

/// One of the two streams that a container writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output; with a terminal, all.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What goes over an attached connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame<'a> {
    /// To the client: what the container wrote.
    Output(Stream, &'a [u8]),
    /// To the client: so many bytes were left out because it was too slow.
    Lost(u64),
    /// To the client: the end.
    Exited(Exit),
    /// To the container's standard input.
    Input(&'a [u8]),
    /// The client's input has ended.
    InputEnd,
    /// The client's terminal has this size: rows and columns.
    Resize(u16, u16),
}

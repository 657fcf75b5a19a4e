//! A command with a deadline: it is killed when it hangs, and what it wrote is kept.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};

/// How long a command may take unless told otherwise; generous, for loaded machines.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command about to be run. By default it has no input and its output is collected.
pub(crate) struct Run {
    command: Command,
    patience: Duration,
    input: Option<Vec<u8>>,
}

/// What a finished command left.
pub(crate) struct Output {
    line: String,
    status: ExitStatus,
    /// Everything on standard output, read as UTF-8.
    pub(crate) stdout: String,
    /// Everything on standard error, read as UTF-8.
    pub(crate) stderr: String,
}

impl Run {
    /// Runs this program.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        // Its own group, so that a hang is ended together with everything it started.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, patience: PATIENCE, input: None }
    }

    /// Appends one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Appends arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Adds to the environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it in this directory.
    pub(crate) fn cwd(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Gives it these bytes as standard input.
    pub(crate) fn input(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.input = Some(bytes.into());
        self.command.stdin(Stdio::piped());
        self
    }

    /// Sends standard output and standard error to a file, for commands whose children go on writing after they end.
    pub(crate) fn output_into(mut self, path: &Path) -> Self {
        let file = File::options().create(true).append(true).open(path).unwrap();
        self.command.stdout(file.try_clone().unwrap()).stderr(file);
        self
    }

    /// Allows it this long before it is killed and the test fails.
    pub(crate) fn patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    /// Runs it to its end. A hang is a failure of the test.
    pub(crate) fn go(mut self) -> Output {
        let line = format!("{:?}", self.command);
        let mut child = self.command.spawn().unwrap_or_else(|e| panic!("cannot start {line}: {e}"));
        if let (Some(bytes), Some(mut pipe)) = (self.input.take(), child.stdin.take()) {
            // A reader that ends early closes the pipe: its exit status tells, not this write.
            let _ = pipe.write_all(&bytes);
        }
        let mut stdout = Vec::new();
        let mut stderr = Vec::new();
        let in_time = collect(&mut child, &mut stdout, &mut stderr, self.patience);
        if !in_time {
            let group = Pid::from_child(&child);
            let _ = kill_process_group(group, Signal::KILL);
        }
        let status = child.wait().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let output = Output { line, status, stdout: text(stdout), stderr: text(stderr) };
        assert!(in_time, "hung for {:?} and was killed: {output}", self.patience);
        output
    }
}

/// Reads both pipes until the process has ended (not until they close: a detached child may hold them for ever).
fn collect(child: &mut Child, stdout: &mut Vec<u8>, stderr: &mut Vec<u8>, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    let ended = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).unwrap();
    let mut out = child.stdout.take();
    let mut err = child.stderr.take();
    for fd in [out.as_ref().map(AsFd::as_fd), err.as_ref().map(AsFd::as_fd)].into_iter().flatten() {
        fcntl_setfl(fd, OFlags::NONBLOCK).unwrap();
    }
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        let mut fds = vec![PollFd::new(&ended, PollFlags::IN)];
        fds.extend(out.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        fds.extend(err.as_ref().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut fds, Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => panic!("poll: {e}"),
        }
        let has_ended = !fds[0].revents().is_empty();
        drain(&mut out, stdout);
        drain(&mut err, stderr);
        if has_ended {
            return true;
        }
    }
}

/// Takes what a pipe holds now; a closed one is dropped, so that poll stops reporting it.
fn drain(pipe: &mut Option<impl Read>, into: &mut Vec<u8>) {
    let Some(reader) = pipe else { return };
    match reader.read_to_end(into) {
        Ok(_) => *pipe = None,
        Err(e) if e.kind() == ErrorKind::WouldBlock => {}
        Err(e) => panic!("read from the command: {e}"),
    }
}

impl Output {
    /// The exit code, unless a signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Fails the test unless the command ended with 0.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code(), Some(0), "{self}");
        self
    }

    /// Fails the test if the command ended with 0.
    #[track_caller]
    pub(crate) fn fails(self) -> Self {
        assert_ne!(self.code(), Some(0), "should have been refused: {self}");
        self
    }

    /// Fails the test unless the command ended with this code.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.code(), Some(code), "{self}");
        self
    }

    /// Standard output without the white space around it.
    pub(crate) fn text(&self) -> &str {
        self.stdout.trim()
    }

    /// Fails the test unless standard output has exactly this line.
    #[track_caller]
    pub(crate) fn has_line(&self, line: &str) {
        assert!(self.stdout.lines().any(|l| l.trim_end() == line), "no line {line:?}: {self}");
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, status, stdout, stderr } = self;
        write!(f, "{line}\n-- {status}\n-- stdout:\n{stdout}\n-- stderr:\n{stderr}")
    }
}

//! `coracle logs`

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{OFlags, inotify};

use super::Context;
use super::launch::LOG;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::keeper::client::Client;
use crate::linux::private;
use crate::store::Store;

/// Show the log of a container of `launch --detach`
#[derive(Debug, clap::Args)]
pub(super) struct LogsArgs {
    /// Follow the log until the container ends
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<usize>,
    /// Only lines since a time (RFC 3339) or an age such as 90s, 10m, 2h
    #[arg(long, value_name = "TIME|AGE")]
    since: Option<String>,
    /// Show the time of each line
    #[arg(short, long)]
    timestamps: bool,
    /// Name of the container
    #[arg(value_name = "NAME")]
    name: String,
}

/// Runs `coracle logs`.
pub(super) fn run(context: &Context, args: &LogsArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.name)?;
    let since = args.since.as_deref().map(parse_since).transpose()?;
    let directory = Store::open(&context.store)?.container_dir(&id);
    let path = directory.join(LOG);
    if !path.exists() {
        let what = format!("container {id} has no log");
        return Err(Error::new(Kind::NotFound, what)
            .hint("containers of launch --detach have a log until they are removed"));
    }
    // Subscribe before the log is read, so that no end of the container is missed.
    let ends = args.follow.then(|| subscribe(&context.run, id.as_str()));
    let mut printer = Printer { timestamps: args.timestamps, since, continued: [false; 2] };
    let mut log = Follower::open(&path)?;
    let read = match args.tail {
        Some(count) => log.tail(count, &mut printer),
        None => log.read(&mut printer),
    };
    let followed = read.and_then(|()| match ends {
        Some(ends) => log.follow(ends, &mut printer),
        None => Ok(()),
    });
    match followed {
        // A broken pipe is no failure: `coracle logs | head`.
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        other => other.doing(|| format!("show {}", path.display())).map(|()| ExitCode::SUCCESS),
    }
}

/// A connection that becomes readable when the container has ended; none if the keeper does not have it.
fn subscribe(run: &Path, id: &str) -> Option<Client> {
    let client = Client::connect(run).ok()?;
    client.subscribe(id).ok().map(|()| client)
}

/// Parses a time or an age to nanoseconds since 1970.
fn parse_since(text: &str) -> Result<i64> {
    if let Ok(time) = chrono::DateTime::parse_from_rfc3339(text) {
        return Ok(time.timestamp_nanos_opt().unwrap_or(i64::MIN));
    }
    let bad = || {
        Error::invalid(format!("--since {text:?} is neither a time nor an age"))
            .hint("as 2026-01-31T12:00:00Z, or 90s, 10m, 2h, 3d")
    };
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86400,
        _ => return Err(bad()),
    };
    let age = number.parse::<i64>().ok().and_then(|n| n.checked_mul(seconds)).ok_or_else(bad)?;
    let now = chrono::Utc::now().timestamp_nanos_opt().unwrap_or(i64::MAX);
    Ok(now.saturating_sub(age.saturating_mul(1_000_000_000)))
}

/// Prints lines of the log as the container wrote them.
struct Printer {
    timestamps: bool,
    since: Option<i64>,
    /// Whether the last piece of standard output, and of standard error, was a partial line.
    continued: [bool; 2],
}

/// A parsed line of the log.
#[derive(Debug, PartialEq, Eq)]
struct Line<'a> {
    time: &'a str,
    is_error: bool,
    whole: bool,
    text: &'a [u8],
}

fn parse(line: &[u8]) -> Option<Line<'_>> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let mut parts = line.splitn(4, |byte| *byte == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let is_error = match parts.next()? {
        b"stdout" => false,
        b"stderr" => true,
        _ => return None,
    };
    let whole = match parts.next()?.split(|byte| *byte == b':').next()? {
        b"F" => true,
        b"P" => false,
        _ => return None,
    };
    Some(Line { time, is_error, whole, text: parts.next()? })
}

impl Printer {
    fn show(&mut self, raw: &[u8]) -> std::io::Result<()> {
        let Some(line) = parse(raw) else { return Ok(()) };
        if let Some(since) = self.since {
            let time = chrono::DateTime::parse_from_rfc3339(line.time).ok();
            if time.and_then(|t| t.timestamp_nanos_opt()).is_some_and(|time| time < since) {
                return Ok(());
            }
        }
        let continued = std::mem::replace(&mut self.continued[usize::from(line.is_error)], !line.whole);
        let mut text = Vec::with_capacity(line.text.len() + 40);
        if self.timestamps && !continued {
            text.extend_from_slice(line.time.as_bytes());
            text.push(b' ');
        }
        text.extend_from_slice(line.text);
        if line.whole {
            text.push(b'\n');
        }
        match line.is_error {
            true => std::io::stderr().lock().write_all(&text),
            false => {
                let mut out = std::io::stdout().lock();
                out.write_all(&text).and_then(|()| out.flush())
            }
        }
    }
}

/// A log that may grow and be rotated.
struct Follower {
    path: PathBuf,
    file: BufReader<File>,
    /// The beginning of a line that is still being written.
    begun: Vec<u8>,
}

impl Follower {
    fn open(path: &Path) -> Result<Self> {
        let file = private::open(path, OFlags::RDONLY).doing(|| format!("open {}", path.display()))?;
        Ok(Self { path: path.to_owned(), file: BufReader::new(file), begun: Vec::new() })
    }

    /// Reads the next complete line.
    fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        self.file.read_until(b'\n', &mut self.begun)?;
        Ok(self.begun.ends_with(b"\n").then(|| std::mem::take(&mut self.begun)))
    }

    /// Prints all complete lines.
    fn read(&mut self, printer: &mut Printer) -> std::io::Result<()> {
        while let Some(line) = self.next()? {
            printer.show(&line)?;
        }
        Ok(())
    }

    /// Prints the last lines; a line in several pieces counts as one.
    fn tail(&mut self, count: usize, printer: &mut Printer) -> std::io::Result<()> {
        let mut last: VecDeque<Vec<u8>> = VecDeque::new();
        let mut whole = 0;
        while let Some(line) = self.next()? {
            whole += usize::from(is_whole(&line));
            last.push_back(line);
            while whole > count {
                whole -= usize::from(last.pop_front().is_some_and(|line| is_whole(&line)));
            }
        }
        last.iter().filter(|_| count > 0).try_for_each(|line| printer.show(line))
    }

    /// Prints new lines until the container has ended and its whole log was printed.
    fn follow(&mut self, ends: Option<Client>, printer: &mut Printer) -> std::io::Result<()> {
        let Some(ends) = ends else { return Ok(()) };
        let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let wanted =
            inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        inotify::add_watch(&watch, directory, wanted)?;
        loop {
            // Read after the watch is set up, and after each event of it, so that nothing is missed in between.
            self.read(printer)?;
            self.change_file(printer)?;
            let mut polled = [PollFd::new(&ends, PollFlags::IN), PollFd::new(&watch, PollFlags::IN)];
            match poll(&mut polled, None) {
                Err(rustix::io::Errno::INTR) => continue,
                other => other?,
            };
            if !polled[0].revents().is_empty() {
                return self.read(printer);
            }
            let mut junk = [0; 4096];
            while rustix::io::read(&watch, &mut junk).is_ok_and(|length| length > 0) {}
        }
    }

    /// Reopens the log if it was rotated or truncated.
    fn change_file(&mut self, printer: &mut Printer) -> std::io::Result<()> {
        use std::os::unix::fs::MetadataExt;
        let Ok(there) = std::fs::metadata(&self.path) else { return Ok(()) };
        let here = self.file.get_ref().metadata()?;
        if (there.dev(), there.ino()) != (here.dev(), here.ino()) {
            self.read(printer)?;
            self.file = BufReader::new(File::open(&self.path)?);
            self.begun.clear();
            return self.read(printer);
        }
        if there.len() < self.file.stream_position()? {
            self.file.seek(SeekFrom::Start(0))?;
            self.begun.clear();
            return self.read(printer);
        }
        Ok(())
    }
}

fn is_whole(line: &[u8]) -> bool {
    parse(line).is_some_and(|line| line.whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_apart() {
        let line = parse(b"2026-01-01T00:00:00.000000000Z stderr P two words\n").unwrap();
        assert_eq!((line.is_error, line.whole, line.text), (true, false, &b"two words"[..]));
        assert_eq!(parse(b"2026-01-01T00:00:00Z stdout F:x  \n").unwrap().text, b" ");
        assert_eq!(parse(b"2026-01-01T00:00:00Z stdout F \n").unwrap().text, b"");
        for noise in [&b""[..], b"x", b"a stdin F x", b"a stdout G x", b"a stdout F"] {
            assert_eq!(parse(noise), None);
        }
    }

    #[test]
    fn ages_and_times_are_moments() {
        assert_eq!(parse_since("1970-01-01T00:00:01Z").unwrap(), 1_000_000_000);
        let hour = parse_since("1h").unwrap() - parse_since("2h").unwrap();
        assert!((3_599_000_000_000..=3_601_000_000_000).contains(&hour), "{hour}");
        for bad in ["", "x", "5y", "-3s", "yesterday"] {
            assert!(parse_since(bad).is_err(), "{bad}");
        }
    }
}

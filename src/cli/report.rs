//! The only module that prints errors and chooses exit codes.

use std::error::Error as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::error::{Error, Kind};
use crate::linux::private;

/// The exit code of every failure of coracle itself, as runc's: callers distinguish failures by the message in the
/// log.
const FAILURE: u8 = 1;

/// Format of the log file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// time="..." level=error msg="..."
    #[default]
    Text,
    /// One JSON object per line, as containerd and podman expect
    Json,
}

/// Sends warnings, with `debug` also debug messages, to standard error and to the log file.
pub fn log_to(file: Option<PathBuf>, format: LogFormat, debug: bool) {
    crate::log::set_sink(move |level, message| {
        if level == "debug" && !debug {
            return;
        }
        if let Some(file) = &file {
            append(file, format, level, message);
        }
        if level != "error" {
            let _ = std::io::stderr().write_all(line(level, message).as_bytes());
        }
    });
}

/// Formats a line for standard error. The journal expects the level as a number (sd-daemon(3)).
fn line(level: &str, message: &str) -> String {
    let number = match level {
        "error" => 3,
        "warning" => 4,
        _ => 7,
    };
    if is_journal() { format!("<{number}>{message}\n") } else { format!("{level}: {message}\n") }
}

/// Whether this process's own standard error goes to the journal, not only that of the process that started it.
fn is_journal() -> bool {
    let stat = rustix::fs::fstat(rustix::stdio::stderr());
    let own = stat.map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| own.is_ok_and(|own| own == stream))
}

/// Prints an error with its causes and its hint, logs it, and chooses the exit code.
pub fn fail(error: &Error) -> ExitCode {
    self::error(error);
    exit_code(error.kind())
}

/// Runs a verb for each name. A failure does not keep the others from their turn; each is printed.
#[cfg(feature = "node")]
pub fn each(names: &[String], mut verb: impl FnMut(&str) -> crate::error::Result<()>) -> ExitCode {
    let failures = names.iter().filter_map(|name| verb(name).err());
    failures.map(|error| fail(&error)).last().unwrap_or(ExitCode::SUCCESS)
}

fn exit_code(kind: Kind) -> ExitCode {
    ExitCode::from(match kind {
        Kind::NotFound
        | Kind::Exists
        | Kind::WrongState
        | Kind::Invalid
        | Kind::Denied
        | Kind::Unsupported
        | Kind::Busy
        | Kind::Corrupt
        | Kind::Unreachable
        | Kind::TimedOut
        | Kind::Cancelled
        | Kind::System
        | Kind::Bug => FAILURE,
    })
}

/// Prints an error with its causes and its hint, and logs it.
pub fn error(error: &Error) {
    crate::log::error(&error.chain());
    let _ = std::io::stderr().write_all(text(error, std::io::stderr().is_terminal()).as_bytes());
}

/// On a terminal each cause has a line of its own. Engines expect one line: podman shows its user only the line in
/// which it recognizes a word.
fn text(error: &Error, for_people: bool) -> String {
    let mut text = format!("error: {error}");
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(if for_people { "\n  caused by: " } else { ": " });
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    if let Some(hint) = error.first_hint() {
        text.push_str(&format!("\n  hint: {hint}"));
    }
    text + "\n"
}

/// Prints clap's own message. Help and version are no failure, nor is a broken pipe.
pub fn parse_error(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS }
}

/// Converts clap's message to an error.
pub fn usage(error: clap::Error) -> Error {
    Error::invalid("invalid arguments").because(error)
}

/// Writes to standard output. A broken pipe is no failure: `coracle list | head -1`.
///
/// # Errors
/// Any other failure to write.
pub fn print(text: &str) -> crate::error::Result<()> {
    use crate::error::Doing;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.doing(|| "write to standard output"),
    }
}

fn append(path: &Path, format: LogFormat, level: &str, message: &str) {
    let time = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let line = match format {
        LogFormat::Json => serde_json::json!({ "level": level, "msg": message, "time": time }).to_string(),
        LogFormat::Text => format!("time={time:?} level={level} msg={message:?}"),
    };
    // If the log cannot be written, the failure cannot be reported.
    if let Ok(mut file) = private::append_named(path) {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

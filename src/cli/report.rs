//! The one place where errors are printed and exit codes chosen.

use std::error::Error as _;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::error::{Error, Kind};
use crate::linux::private;

/// Exit code of every failure of ours, as runc's: callers tell failures apart by the message in the log.
const FAILURE: u8 = 1;

/// Format of the log file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// time="..." level=error msg="..."
    #[default]
    Text,
    /// One object a line, as containerd and podman read it
    Json,
}

/// Sends warnings, and with `debug` more, to standard error and to the log file.
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

/// A line for standard error. The journal wants the level as a number (sd-daemon(3)).
fn line(level: &str, message: &str) -> String {
    let number = match level {
        "error" => 3,
        "warning" => 4,
        _ => 7,
    };
    if is_journal() { format!("<{number}>{message}\n") } else { format!("{level}: {message}\n") }
}

/// Whether standard error leads to the journal, and not only that of the process that started this one.
fn is_journal() -> bool {
    let stat = rustix::fs::fstat(rustix::stdio::stderr());
    let own = stat.map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    std::env::var("JOURNAL_STREAM").is_ok_and(|stream| own.is_ok_and(|own| own == stream))
}

/// Prints an error with its causes and its hint, puts it into the log, and picks the exit code.
pub fn fail(error: &Error) -> ExitCode {
    self::error(error);
    exit_code(error.kind())
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

/// Prints an error with its causes and its hint, and puts it into the log.
pub fn error(error: &Error) {
    crate::log::error(&error.chain());
    let _ = std::io::stderr().write_all(text(error, std::io::stderr().is_terminal()).as_bytes());
}

/// A line for each cause is for people. Whoever else reads it looks for one line: podman shows its user only the one in
/// which it knows a word.
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

/// clap's own message. Help and version are no failure; a broken pipe behind them neither.
pub fn parse_error(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() { ExitCode::from(FAILURE) } else { ExitCode::SUCCESS }
}

/// clap's message as an error of ours.
pub fn usage(error: clap::Error) -> Error {
    Error::invalid("the arguments do not fit").because(error)
}

/// Writes a line to standard output. That nobody reads it any more is no failure: `coracle list | head -1` is fine.
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
    // Nobody is left to tell about a log that cannot be written.
    if let Ok(mut file) = private::append_named(path) {
        let _ = file.write_all(format!("{line}\n").as_bytes());
    }
}

//! Warnings and debug messages, to stderr or to the file of `--log`; the error that ends a run is returned instead.

use std::io::Write;
use std::sync::Mutex;

type Sink = Box<dyn Fn(&str, &str) + Send>;

static SINK: Mutex<Option<Sink>> = Mutex::new(None);
static RECORDER: Mutex<Option<Sink>> = Mutex::new(None);

/// Sends all further messages to `sink`, as level and message.
pub fn set_sink(sink: impl Fn(&str, &str) + Send + 'static) {
    if let Ok(mut current) = SINK.lock() {
        *current = Some(Box::new(sink));
    }
}

/// Passes all further messages to `recorder` too, which must log nothing itself.
pub fn record(recorder: impl Fn(&str, &str) + Send + 'static) {
    if let Ok(mut current) = RECORDER.lock() {
        *current = Some(Box::new(recorder));
    }
}

/// Logs something the user should know that did not stop the work.
pub fn warning(message: &str) {
    say("warning", message);
}

/// Logs a detail for finding the cause of a problem (`--debug`).
pub fn debug(message: &str) {
    say("debug", message);
}

/// Logs the error that ends the run; it is printed to the user elsewhere.
pub fn error(message: &str) {
    say("error", message);
}

fn say(level: &str, message: &str) {
    if let Ok(Some(recorder)) = RECORDER.lock().as_deref() {
        recorder(level, message);
    }
    match SINK.lock().as_deref() {
        Ok(Some(sink)) => sink(level, message),
        _ if level != "warning" => {}
        _ => {
            let _ = writeln!(std::io::stderr(), "{level}: {message}");
        }
    }
}

//! What is said besides the one error that ends a run: warnings, to stderr or to the file of `--log`.

use std::io::Write;
use std::sync::Mutex;

type Sink = Box<dyn Fn(&str, &str) + Send>;

static SINK: Mutex<Option<Sink>> = Mutex::new(None);

/// Sends all that is said from here on to `sink`, as level and message.
pub fn set_sink(sink: impl Fn(&str, &str) + Send + 'static) {
    if let Ok(mut place) = SINK.lock() {
        *place = Some(Box::new(sink));
    }
}

/// Something the user should know that did not stop the work.
pub fn warning(message: &str) {
    say("warning", message);
}

/// Something for whoever looks for the cause of a problem (`--debug`).
pub fn debug(message: &str) {
    say("debug", message);
}

fn say(level: &str, message: &str) {
    match SINK.lock().as_deref() {
        Ok(Some(sink)) => sink(level, message),
        _ if level == "debug" => {}
        _ => {
            let _ = writeln!(std::io::stderr(), "{level}: {message}");
        }
    }
}

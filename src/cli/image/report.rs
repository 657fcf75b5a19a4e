//! Reports the progress of an import or a pull: bars, lines or events.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::bytes;
use crate::digest::Digest;
use crate::image::progress::{Outcome, Progress};

/// The time between two lines, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// The template of a layer's bar, for a terminal of 80 columns.
const UNDER_WAY: &str = "{prefix} [{bar:20}] {decimal_bytes:>10} of {decimal_total_bytes:10} {decimal_bytes_per_sec:>12} {eta:>4}";
const DONE: &str = "{prefix} [{bar:20}] {decimal_total_bytes:>10} {msg}";
/// The time between two events about the same layer.
const EVENT_EVERY: Duration = Duration::from_millis(500);

/// Reports progress on standard error: bars on a terminal, otherwise a line every ten seconds.
pub(in crate::cli) fn progress() -> Box<dyn Progress> {
    Box::new(ProgressReport::new())
}

pub(super) struct ProgressReport {
    bars: Option<MultiProgress>,
    work: Mutex<Work>,
}

struct Work {
    layers: HashMap<Digest, LayerProgress>,
    /// The number of finished layers.
    done: usize,
    /// The time of the last line.
    last_line: Instant,
}

struct LayerProgress {
    bar: Option<ProgressBar>,
    size_bytes: u64,
    done_bytes: u64,
}

impl Work {
    /// The line to write at the time `now`, if one is due.
    fn line(&mut self, now: Instant) -> Option<String> {
        if now.duration_since(self.last_line) < LINE_EVERY {
            return None;
        }
        self.last_line = now;
        let under_way = self.layers.iter().map(|(digest, layer)| {
            let (done, size) = (bytes(layer.done_bytes), bytes(layer.size_bytes));
            format!("layer {}: {done} of {size}", &digest.hex()[..12])
        });
        let mut parts: Vec<String> = under_way.collect();
        parts.sort();
        match self.done {
            0 => {}
            1 => parts.push("1 layer is done".to_owned()),
            count => parts.push(format!("{count} layers are done")),
        }
        Some(parts.join(", "))
    }
}

impl ProgressReport {
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        let work = Work { layers: HashMap::new(), done: 0, last_line: Instant::now() };
        Self { bars, work: Mutex::new(work) }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            // If standard error is closed, the failure cannot be reported.
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }

    fn bar(&self, layer: &Digest, size_bytes: u64) -> Option<ProgressBar> {
        let bar = self.bars.as_ref()?.add(ProgressBar::new(size_bytes));
        style(&bar, UNDER_WAY);
        bar.set_prefix(layer.hex()[..12].to_owned());
        Some(bar)
    }
}

fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
}

impl Progress for ProgressReport {
    fn begin(&self, layer: &Digest, size_bytes: u64) {
        let bar = self.bar(layer, size_bytes);
        self.work().layers.insert(*layer, LayerProgress { bar, size_bytes, done_bytes: 0 });
    }

    fn advance(&self, layer: &Digest, bytes: u64) {
        let mut work = self.work();
        let Some(layer) = work.layers.get_mut(layer) else { return };
        layer.done_bytes += bytes;
        match &layer.bar {
            Some(bar) => bar.inc(bytes),
            None => work.line(Instant::now()).iter().for_each(|line| self.line(line)),
        }
    }

    fn end(&self, layer: &Digest, outcome: Outcome) {
        let known = {
            let mut work = self.work();
            work.done += 1;
            work.layers.remove(layer)
        };
        let what = match outcome {
            Outcome::Unpacked => "unpacked",
            Outcome::Present => "already here",
        };
        match (known.and_then(|layer| layer.bar), &self.bars) {
            (Some(bar), _) => {
                style(&bar, DONE);
                bar.finish_with_message(what);
            }
            (None, Some(_)) => self.line(&format!("{} {what}", &layer.hex()[..12])),
            (None, None) => {}
        }
    }

    fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"));
    }
}

/// Reports only warnings.
#[derive(Debug)]
pub(super) struct Quiet;

impl Progress for Quiet {
    fn begin(&self, _layer: &Digest, _size_bytes: u64) {}
    fn advance(&self, _layer: &Digest, _bytes: u64) {}
    fn end(&self, _layer: &Digest, _outcome: Outcome) {}

    fn warn(&self, text: &str) {
        let _ = writeln!(std::io::stderr().lock(), "warning: {text}");
    }
}

/// Reports one JSON object per line on standard output, for programs.
pub(super) struct Events {
    layers: Mutex<HashMap<Digest, (u64, u64, Instant)>>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { layers: Mutex::default() }
    }

    fn send(event: &Value) {
        // A reader that has closed the pipe needs no events.
        let _ = writeln!(std::io::stdout().lock(), "{event}");
    }
}

impl Progress for Events {
    fn begin(&self, layer: &Digest, size_bytes: u64) {
        self.layers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(*layer, (0, size_bytes, Instant::now()));
        Self::send(&json!({"event": "begin", "layer": layer, "size": size_bytes}));
    }

    fn advance(&self, layer: &Digest, bytes: u64) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((done, size, last_event)) = layers.get_mut(layer) else { return };
        *done += bytes;
        if last_event.elapsed() >= EVENT_EVERY {
            *last_event = Instant::now();
            Self::send(&json!({"event": "progress", "layer": layer, "done": *done, "size": *size}));
        }
    }

    fn end(&self, layer: &Digest, outcome: Outcome) {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).remove(layer);
        let how = match outcome {
            Outcome::Unpacked => "unpacked",
            Outcome::Present => "present",
        };
        Self::send(&json!({"event": "end", "layer": layer, "outcome": how}));
    }

    fn warn(&self, text: &str) {
        Self::send(&json!({"event": "warning", "text": text}));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_comes_every_ten_seconds_and_says_all_that_goes_on() {
        let start = Instant::now();
        let mut work = Work { layers: HashMap::new(), done: 0, last_line: start };
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        for (name, done_bytes) in [("a", 1 << 20), ("b", 0)] {
            let layer = LayerProgress { bar: None, size_bytes: 3 << 20, done_bytes };
            work.layers.insert(Digest::of(name.as_bytes()), layer);
        }
        assert_eq!(work.line(at(9)), None);
        let expected = "layer 3e23e8160039: 0 B of 3.1 MB, layer ca978112ca1b: 1.0 MB of 3.1 MB";
        assert_eq!(work.line(at(10)).unwrap(), expected);
        assert_eq!(work.line(at(19)), None);
        work.done = 2;
        assert_eq!(work.line(at(20)).unwrap(), format!("{expected}, 2 layers are done"));
    }
}

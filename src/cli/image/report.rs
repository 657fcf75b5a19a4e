//! How far an import or a pull has come: bars, lines or events.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::bytes;
use crate::digest::Digest;
use crate::image::progress::{Outcome, Progress};

/// Between two lines about the same work, where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);
/// Between two events about the same layer.
const EVENT_EVERY: Duration = Duration::from_millis(500);

/// Tells of an import on standard error: bars on a terminal, else a line for each layer that is done and one every ten
/// seconds for what goes on.
pub(in crate::cli) fn progress() -> Box<dyn Progress> {
    Box::new(Report::new())
}

pub(super) struct Report {
    bars: Option<MultiProgress>,
    layers: Mutex<HashMap<Digest, Layer>>,
    told: Mutex<Instant>,
}

struct Layer {
    bar: Option<ProgressBar>,
    size_bytes: u64,
    done_bytes: u64,
    since: Instant,
}

impl Report {
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, layers: Mutex::default(), told: Mutex::new(Instant::now()) }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            // Nobody can be told that standard error is closed.
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }

    /// Where nobody sees bars: all that is under way, on one line.
    fn tell_sometimes(&self, layers: &HashMap<Digest, Layer>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if self.bars.is_some() || told.elapsed() < LINE_EVERY {
            return;
        }
        *told = Instant::now();
        let mut all: Vec<String> = layers
            .iter()
            .map(|(digest, layer)| {
                let (done, size) = (bytes(layer.done_bytes), bytes(layer.size_bytes));
                format!("layer {}: {done} of {size}", &digest.hex()[..12])
            })
            .collect();
        all.sort();
        self.line(&all.join(", "));
    }

    fn bar(&self, layer: &Digest, size_bytes: u64) -> Option<ProgressBar> {
        let bar = self.bars.as_ref()?.add(ProgressBar::new(size_bytes));
        let template =
            "{prefix} [{bar:24}] {bytes:>11} of {total_bytes:11} {binary_bytes_per_sec:>13}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(layer.hex()[..12].to_owned());
        Some(bar)
    }
}

impl Progress for Report {
    fn begin(&self, layer: &Digest, size_bytes: u64) {
        let bar = self.bar(layer, size_bytes);
        let begun = Layer { bar, size_bytes, done_bytes: 0, since: Instant::now() };
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).insert(*layer, begun);
    }

    fn advance(&self, layer: &Digest, bytes: u64) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(layer) = layers.get_mut(layer) else { return };
        layer.done_bytes += bytes;
        match &layer.bar {
            Some(bar) => bar.inc(bytes),
            None => self.tell_sometimes(&layers),
        }
    }

    fn end(&self, layer: &Digest, outcome: Outcome) {
        let known = self.layers.lock().unwrap_or_else(PoisonError::into_inner).remove(layer);
        let what = match outcome {
            Outcome::Unpacked => "unpacked",
            Outcome::Present => "already here",
        };
        match known {
            Some(Layer { bar: Some(bar), .. }) => bar.finish_with_message(what),
            Some(Layer { size_bytes, since, .. }) => {
                let took = Duration::from_millis(since.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
                self.line(&format!(
                    "layer {}: {what}, {} in {took:?}",
                    &layer.hex()[..12],
                    bytes(size_bytes)
                ));
            }
            None => self.line(&format!("layer {}: {what}", &layer.hex()[..12])),
        }
    }

    fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"));
    }
}

/// Tells only what is odd.
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

/// One JSON object a line on standard output, for programs.
pub(super) struct Events {
    layers: Mutex<HashMap<Digest, (u64, u64, Instant)>>,
}

impl Events {
    pub(super) fn new() -> Self {
        Self { layers: Mutex::default() }
    }

    fn send(event: &Value) {
        // Whoever asked for events and went away misses none.
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
        let Some((done, size, told)) = layers.get_mut(layer) else { return };
        *done += bytes;
        if told.elapsed() >= EVENT_EVERY {
            *told = Instant::now();
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

//! How far an import or a pull has come, told on standard error.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use super::bytes;
use crate::digest::Digest;
use crate::image::progress::{Outcome, Progress};

/// Tells of an import on standard error: bars on a terminal, else a line for each layer that is done.
pub(in crate::cli) fn progress() -> Box<dyn Progress> {
    Box::new(Report::new())
}

pub(super) struct Report {
    bars: Option<MultiProgress>,
    layers: Mutex<HashMap<Digest, Layer>>,
}

struct Layer {
    bar: Option<ProgressBar>,
    size_bytes: u64,
    since: Instant,
}

impl Report {
    pub(super) fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, layers: Mutex::default() }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            // Nobody can be told that standard error is closed.
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
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
        let begun = Layer { bar: self.bar(layer, size_bytes), size_bytes, since: Instant::now() };
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).insert(*layer, begun);
    }

    fn advance(&self, layer: &Digest, bytes: u64) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = layers.get(layer).and_then(|layer| layer.bar.as_ref()) {
            bar.inc(bytes);
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

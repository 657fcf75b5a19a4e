//! Prometheus' text format, version 0.0.4.

use std::fmt::Write;

use crate::pod::histogram::{BOUNDS_MS, Counted};

/// The content type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The type of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// Metrics as text.
#[derive(Debug, Default)]
pub(super) struct Text(String);

/// The labels of a sample, by name.
type Labels<'a> = &'a [(&'a str, &'a str)];

impl Text {
    pub(super) fn into_string(self) -> String {
        self.0
    }

    /// Begins a metric; its samples follow.
    pub(super) fn metric(&mut self, kind: Kind, name: &str, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.head(kind, name, help);
    }

    /// Adds a sample.
    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: u64) {
        self.line(name, labels, &value.to_string());
    }

    /// A metric with one sample without labels.
    pub(super) fn one(&mut self, kind: Kind, name: &str, help: &str, value: u64) {
        self.metric(kind, name, help);
        self.sample(name, &[], value);
    }

    /// A histogram of durations, in seconds.
    pub(super) fn histogram(&mut self, name: &str, help: &str, counted: &Counted) {
        self.head("histogram", name, help);
        let bounds = BOUNDS_MS.iter().map(|bound| seconds(*bound * 1000)).chain(["+Inf".to_owned()]);
        let bucket = format!("{name}_bucket");
        let mut below = 0;
        for (bound, count) in bounds.zip(counted.counts) {
            below += count;
            self.sample(&bucket, &[("le", &bound)], below);
        }
        let micros = u64::try_from(counted.sum.as_micros()).unwrap_or(u64::MAX);
        self.line(&format!("{name}_sum"), &[], &seconds(micros));
        self.sample(&format!("{name}_count"), &[], below);
    }

    fn head(&mut self, kind: &str, name: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {}\n# TYPE {name} {kind}", escaped(help, false));
    }

    fn line(&mut self, name: &str, labels: Labels<'_>, value: &str) {
        self.0.push_str(name);
        for (index, (key, label)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            let _ = write!(self.0, "{before}{key}=\"{}\"", escaped(label, true));
        }
        let after = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{after} {value}");
    }
}

/// Microseconds as seconds, exactly.
fn seconds(micros: u64) -> String {
    let (whole, rest) = (micros / 1_000_000, micros % 1_000_000);
    let digits = format!("{whole}.{rest:06}");
    digits.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(text: &str, with_quotes: bool) -> String {
    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
    if with_quotes { text.replace('"', "\\\"") } else { text }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pod::histogram::Histogram;

    #[test]
    fn samples_are_written_and_escaped() {
        let mut text = Text::default();
        text.metric(Kind::Gauge, "a", "Help\\me\nnow");
        text.sample("a", &[("x", "1"), ("y", "a\"b\\c\nd")], 7);
        text.one(Kind::Counter, "b_total", "B.", 0);
        let expected = "# HELP a Help\\\\me\\nnow\n# TYPE a gauge\na{x=\"1\",y=\"a\\\"b\\\\c\\nd\"} 7\n\
                        # HELP b_total B.\n# TYPE b_total counter\nb_total 0\n";
        assert_eq!(text.into_string(), expected);
    }

    #[test]
    fn buckets_of_histograms_are_summed_up() {
        let histogram = Histogram::default();
        [3, 7, 20, 700_000].iter().for_each(|ms| histogram.succeeded(Duration::from_millis(*ms)));
        let mut text = Text::default();
        text.histogram("d_seconds", "D.", &histogram.counted());
        let text = text.into_string();
        for line in [
            "d_seconds_bucket{le=\"0.005\"} 1",
            "d_seconds_bucket{le=\"0.01\"} 2",
            "d_seconds_bucket{le=\"0.025\"} 3",
            "d_seconds_bucket{le=\"600\"} 3",
            "d_seconds_bucket{le=\"+Inf\"} 4",
            "d_seconds_sum 700.03",
            "d_seconds_count 4",
        ] {
            assert!(text.lines().any(|own| own == line), "{line} is not in {text}");
        }
    }
}

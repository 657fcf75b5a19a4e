//! Pressure stall information: how long the processes of a cgroup waited for a resource. KERNEL(4.20)
//! Documentation/accounting/psi.rst

use super::{Group, Mode};

/// The pressure on one resource.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Pressure {
    /// Time during which at least one process waited.
    pub some: Stalled,
    /// Time during which all processes waited.
    pub full: Stalled,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Stalled {
    /// Percent of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
    /// The total time, in microseconds.
    pub total_us: u64,
}

impl Group {
    /// The pressure on `cpu`, `memory` or `io`; none on v1, and where the kernel does not account it.
    pub fn pressure(&self, resource: &str) -> Option<Pressure> {
        if self.mode() == Mode::V1 {
            return None;
        }
        Some(parse(&self.dir().ok()?.read(&format!("{resource}.pressure")).ok()?))
    }
}

fn parse(text: &str) -> Pressure {
    let line = |name: &str| {
        let words = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        let value = |key: &str| words.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        let average = |key| value(key).and_then(|text| text.parse().ok()).unwrap_or_default();
        Stalled {
            averages: ["avg10", "avg60", "avg300"].map(average),
            total_us: value("total").and_then(|text| text.parse().ok()).unwrap_or_default(),
        }
    };
    Pressure { some: line("some "), full: line("full ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_files_are_parsed() {
        let text = "some avg10=1.50 avg60=0.20 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let pressure = parse(text);
        assert_eq!(pressure.some, Stalled { averages: [1.5, 0.2, 0.0], total_us: 1234 });
        assert_eq!(pressure.full.total_us, 7);
        // Kernels before 5.13 have no line "full" for cpu.
        assert_eq!(parse("some avg10=0.00 avg60=0.00 avg300=0.00 total=1\n").full, Stalled::default());
    }
}

//! CNI versions.

use crate::error::{Error, Kind, Result};

/// The supported versions, newest first.
const SUPPORTED: [&str; 5] = ["1.1.0", "1.0.0", "0.4.0", "0.3.1", "0.3.0"];

/// A supported version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version(&'static str);

impl Version {
    /// The newest of these versions that is supported here and for which `offered` returns true.
    ///
    /// # Errors
    /// `Unsupported` when there is none.
    pub(super) fn newest(of: &[&str], offered: impl Fn(&str) -> bool) -> Result<Self> {
        SUPPORTED.into_iter().find(|v| of.contains(v) && offered(v)).map(Self).ok_or_else(|| {
            Error::new(Kind::Unsupported, format!("no common version of CNI among {}", of.join(", ")))
                .hint(format!("supported versions: {}", SUPPORTED.join(", ")))
        })
    }

    pub(super) fn as_str(self) -> &'static str {
        self.0
    }

    /// Returns whether it has STATUS and GC. SPEC(cni 1.1.0)
    pub(super) fn has_status(self) -> bool {
        self.0 == "1.1.0"
    }

    /// Returns whether DEL gets the result of ADD. SPEC(cni 0.4.0)
    pub(super) fn has_previous_result(self) -> bool {
        !self.0.starts_with("0.3.")
    }
}

//! What can go wrong on the way.

use std::time::Duration;

/// One way to answer badly.
#[derive(Debug, Clone)]
pub(crate) enum Fault {
    /// The connection ends after so many bytes of the body.
    Cut(usize),
    /// The connection stays open after so many bytes of the body, and nothing more comes.
    Stall(usize),
    /// So many bytes at a time, with a pause between.
    Drip(usize, Duration),
    /// A range is not understood: all is sent, as 200.
    WithoutRanges,
    /// All is sent as 200, and the connection ends after so many bytes.
    WithoutRangesCut(usize),
    /// This status and these headers, with no body to speak of.
    Status(u16, Vec<(&'static str, String)>),
    /// What would be served is at the same path of this registry: `http[s]://host:port`.
    MovedTo(String),
    /// Other bytes than asked for.
    Instead(Vec<u8>),
    /// The connection is closed without a word.
    HangUp,
}

/// Where a fault happens, and how often still.
pub(super) struct Rule {
    pub(super) part: String,
    pub(super) times: usize,
    pub(super) fault: Fault,
}

/// The fault for a request, if there is one.
pub(super) fn next(rules: &mut [Rule], path: &str) -> Option<Fault> {
    let rule = rules.iter_mut().find(|rule| rule.times > 0 && path.contains(&rule.part))?;
    rule.times -= 1;
    Some(rule.fault.clone())
}

//! `coracle check`: whether this machine can run pods, row by row, with what to do about each finding.
//!
//! | file | rows |
//! |---|---|
//! | `tree` | the files of the machine, below a root that tests replace |
//! | `probes` | what is found out by trying |
//! | `kernel` | version, features, cgroups, modules, confinement |
//! | `node` | clock, space, flash |
//! | `network` | CNI, packet filter, bridges |
//! | `runtime` | this runtime's own programs and sockets, and other runtimes |
//! | `kubelet` | kubelet's configuration |

mod kernel;
mod kubelet;
mod network;
mod node;
mod probes;
mod runtime;
mod tree;

use serde::Serialize;

pub use probes::Probes;
pub use runtime::Runtime;
pub use tree::Tree;

use crate::serve::config::Config;

/// How a row came out, from the best to the worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Does not concern this machine.
    NotApplicable,
    /// As it should be.
    Ok,
    /// Pods run, but something may surprise.
    Warning,
    /// Pods do not run, or lose data.
    Error,
}

/// One row of the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    /// What was looked at.
    pub topic: &'static str,
    /// How it came out.
    pub state: State,
    /// What was found.
    pub finding: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Row {
    fn new(topic: &'static str, state: State, finding: impl Into<String>) -> Self {
        Self { topic, state, finding: finding.into(), advice: None }
    }

    pub(crate) fn ok(topic: &'static str, finding: impl Into<String>) -> Self {
        Self::new(topic, State::Ok, finding)
    }

    pub(crate) fn warning(topic: &'static str, finding: impl Into<String>) -> Self {
        Self::new(topic, State::Warning, finding)
    }

    pub(crate) fn error(topic: &'static str, finding: impl Into<String>) -> Self {
        Self::new(topic, State::Error, finding)
    }

    pub(crate) fn not_applicable(topic: &'static str, finding: impl Into<String>) -> Self {
        Self::new(topic, State::NotApplicable, finding)
    }

    pub(crate) fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }
}

/// All rows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The rows in the order in which they are shown.
    pub rows: Vec<Row>,
}

impl Report {
    /// Checks the machine whose files are in `tree`. `probes` and `runtime` are of the running one.
    pub fn new(tree: &Tree, config: &Config, probes: &Probes, runtime: &Runtime) -> Self {
        let rows = [
            kernel::rows(tree, probes),
            node::rows(tree, config),
            network::rows(tree, config),
            runtime::rows(tree, config, runtime),
            kubelet::rows(tree, config),
        ];
        Self { rows: rows.concat() }
    }

    /// The worst state of a row.
    pub fn state(&self) -> State {
        self.rows.iter().map(|row| row.state).max().unwrap_or(State::Ok)
    }
}

#[cfg(test)]
mod tests;

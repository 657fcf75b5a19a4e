//! Metrics of the daemon itself, for Prometheus, and `/healthz`.
//!
//! | file | holds |
//! |---|---|
//! | `listener` | HTTP: who may connect, for how long |
//! | `collect` | the metrics and the health, read at each request |
//! | `keeper_probe` | whether the keeper answers |
//! | `errors`, `pulls` | what is counted in between; starts are counted in `pod` |
//! | `exposition` | the text format |

mod collect;
mod errors;
mod exposition;
mod keeper_probe;
mod listener;
mod pulls;

pub(super) use listener::{Listener, listen};
pub(super) use pulls::{CountedProgress, Pulls};

use errors::Errors;
use std::sync::Arc;

/// What is counted since the daemon was started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) errors: Errors,
    pub(super) pulls: Arc<Pulls>,
}

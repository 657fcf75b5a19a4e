//! Lanes: limits for the number of concurrent calls of each kind. Calls of one lane never wait for those of another.
//!
//! A container decides how long a call that waits for it (ExecSync, StopContainer) takes. Whatever a container does, the
//! node must still answer kubelet's reads and stop other containers, so these calls have lanes of their own, and each lane
//! has its own threads.

use std::sync::Arc;

use crate::workers::Workers;

/// Concurrent calls that only read memory; none of them blocks.
const READS: usize = 8;

/// Concurrent calls for statistics, or for the list of images.
const LISTS: usize = 4;

/// How many times more calls may wait for containers than do work: a waiting call costs only a sleeping thread and a few
/// descriptors.
const WAITING_FACTOR: usize = 8;

/// The kinds of calls, by what limits them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Reads memory.
    Read,
    /// Reads statistics.
    Stats,
    /// Lists images.
    Images,
    /// Looks up one image, and may wait for an import.
    Image,
    /// Creates, starts or changes something.
    Work,
    /// Pulls an image.
    Pull,
    /// Runs a command in a container.
    Exec,
    /// Stops or removes something.
    End,
    /// Starts or ends what sessions are connected to.
    Stream,
}

impl Lane {
    const ALL: [Self; 9] = [
        Self::Read,
        Self::Stats,
        Self::Images,
        Self::Image,
        Self::Work,
        Self::Pull,
        Self::Exec,
        Self::End,
        Self::Stream,
    ];

    fn limit(self, parallel: usize) -> usize {
        match self {
            Self::Read => READS,
            Self::Stats | Self::Images => LISTS,
            Self::Image | Self::Work | Self::Pull | Self::Stream => parallel,
            Self::Exec | Self::End => parallel.saturating_mul(WAITING_FACTOR),
        }
    }
}

/// All lanes, each with its own threads.
#[derive(Clone)]
pub(crate) struct Lanes([Arc<Workers>; Lane::ALL.len()]);

impl Lanes {
    /// Lanes that run at most `parallel` calls each that do work.
    pub(crate) fn new(parallel: usize) -> Self {
        Self(Lane::ALL.map(|lane| Workers::new(lane.limit(parallel))))
    }

    /// The threads of a lane.
    pub(crate) fn of(&self, lane: Lane) -> &Arc<Workers> {
        &self.0[lane as usize]
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_full_lane_holds_up_no_other() {
        let parallel = 2;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let lanes = Lanes::new(parallel);
            for full in Lane::ALL {
                let (open, gate) = mpsc::channel::<()>();
                let gate = Arc::new(std::sync::Mutex::new(gate));
                // One more than the lane's limit.
                let calls: Vec<_> = (0..=full.limit(parallel))
                    .map(|_| {
                        let (lanes, gate) = (lanes.clone(), Arc::clone(&gate));
                        tokio::spawn(async move {
                            let wait = move || Ok(gate.lock().unwrap().recv().is_ok());
                            lanes.of(full).run(wait).await
                        })
                    })
                    .collect();
                tokio::task::yield_now().await;
                for other in Lane::ALL.into_iter().filter(|other| *other != full) {
                    let result =
                        tokio::time::timeout(Duration::from_secs(20), lanes.of(other).run(|| Ok(7))).await;
                    assert_eq!(result.unwrap(), Ok(7), "{other:?} waits for {full:?}");
                }
                drop(open);
                for call in calls {
                    call.await.unwrap().unwrap();
                }
            }
        });
    }
}

//! Lanes: how many calls of a kind are worked on at a time. Calls of one lane never wait for those of another.
//!
//! A call that waits for a container (ExecSync, StopContainer) takes as long as whoever runs in the container likes.
//! Whatever a container does, the node goes on answering what kubelet reads, and goes on ending other containers: so these
//! have lanes of their own, and each lane has its own threads.

use std::sync::Arc;

use crate::workers::Workers;

/// Calls that read from memory and that are worked on at a time; none of them waits for anything.
const READS: usize = 8;

/// Calls for statistics, or for the list of images, at a time.
const LISTS: usize = 4;

/// A call that only waits for a container costs a sleeping thread and a few descriptors: so many times more of them are
/// taken on than of calls that do work.
const WAITING_FACTOR: usize = 8;

/// The kinds of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Reads what is in memory.
    Read,
    /// Reads statistics.
    Stats,
    /// Lists images.
    Images,
    /// Looks for one image, and may wait for an import.
    Image,
    /// Makes, starts or changes something.
    Work,
    /// Pulls an image.
    Pull,
    /// Runs a command in a container.
    Exec,
    /// Ends something.
    End,
}

impl Lane {
    const ALL: [Self; 8] =
        [Self::Read, Self::Stats, Self::Images, Self::Image, Self::Work, Self::Pull, Self::Exec, Self::End];

    fn limit(self, parallel: usize) -> usize {
        match self {
            Self::Read => READS,
            Self::Stats | Self::Images => LISTS,
            Self::Image | Self::Work | Self::Pull => parallel,
            Self::Exec | Self::End => parallel.saturating_mul(WAITING_FACTOR),
        }
    }
}

/// All lanes. Each has threads of its own.
#[derive(Clone)]
pub(crate) struct Lanes([Arc<Workers>; Lane::ALL.len()]);

impl Lanes {
    /// Lanes of which those for work take `parallel` calls at a time.
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
                // One more than there is room for.
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
                    let answer =
                        tokio::time::timeout(Duration::from_secs(20), lanes.of(other).run(|| Ok(7))).await;
                    assert_eq!(answer.unwrap(), Ok(7), "{other:?} waits for {full:?}");
                }
                drop(open);
                for call in calls {
                    call.await.unwrap().unwrap();
                }
            }
        });
    }
}

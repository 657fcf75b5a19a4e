//! The disk usage of a container's writable layer.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::now_ns;

/// A layer is walked at most once per this time ...
const LEAST_PAUSE: Duration = Duration::from_secs(30);
/// ... and for at most one part in this many of the time.
const PAUSE_FACTOR: u32 = 100;

/// How long a caller waits for a walk under way before it gets the previous result.
const PATIENCE: Duration = Duration::from_millis(200);

/// The size of a writable layer at some time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measured {
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    /// When the walk ended, in nanoseconds since 1970.
    pub(super) at_ns: i64,
    again: Instant,
}

/// The last measured size of a container's writable layer. A container can make the walk as slow as it likes, so a separate
/// thread does it, one at a time per layer, and callers need not wait for it.
#[derive(Debug, Default)]
pub(super) struct LayerUsage {
    state: Mutex<State>,
    measured: Condvar,
}

#[derive(Debug, Default)]
struct State {
    last: Option<Measured>,
    being_measured: bool,
}

impl LayerUsage {
    /// The last result; none while the first walk is under way.
    pub(super) fn get(self: &Arc<Self>, layer: &Path) -> Option<Measured> {
        let mut state = self.state();
        if state.last.is_some_and(|last| Instant::now() < last.again) {
            return state.last;
        }
        if !state.being_measured {
            state.being_measured = self.begin(layer);
        }
        let waited = self.measured.wait_timeout_while(state, PATIENCE, |state| state.being_measured);
        waited.unwrap_or_else(PoisonError::into_inner).0.last
    }

    /// Starts a walk; false if no thread can be created.
    fn begin(self: &Arc<Self>, layer: &Path) -> bool {
        let (own, layer) = (Arc::clone(self), layer.to_owned());
        let thread = std::thread::Builder::new().name("layer".to_owned()).stack_size(256 << 10);
        let work = move || {
            let measured = measure(&layer);
            let mut state = own.state();
            (state.last, state.being_measured) = (Some(measured), false);
            own.measured.notify_all();
        };
        thread.spawn(work).is_ok()
    }

    /// No code that may panic runs under the lock, so a poisoned state is intact.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn measure(layer: &Path) -> Measured {
    let began = Instant::now();
    let (mut bytes, mut inodes) = (0, 0);
    let mut todo = vec![layer.to_owned()];
    while let Some(directory) = todo.pop() {
        // The container may delete files during the walk; those do not count.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512;
            inodes += 1;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    let pause = LEAST_PAUSE.max(began.elapsed() * PAUSE_FACTOR);
    Measured { bytes, inodes, at_ns: now_ns(), again: Instant::now() + pause }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writable_layer_is_measured_with_all_below() {
        let layer = tempfile::tempdir().unwrap();
        std::fs::create_dir(layer.path().join("a")).unwrap();
        std::fs::write(layer.path().join("a/b"), vec![1; 10_000]).unwrap();
        let measured = measure(layer.path());
        assert_eq!(measured.inodes, 2);
        assert!(measured.bytes >= 10_000);
    }
}

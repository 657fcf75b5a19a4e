//! The cancellation of calls.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Passed to calls that may take long. It is cancelled when no client waits for the response any more: each has closed its
/// connection, has cancelled the call, or its deadline has passed.
#[derive(Clone, Default)]
pub struct Call(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    hooks: Vec<Box<dyn FnOnce() + Send>>,
}

impl Call {
    /// Whether the call was cancelled. Long work checks this between its steps.
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// Runs `hook` when the call is cancelled, or at once if it was. For work that sleeps in a system call: the hook wakes
    /// it. The hook runs on the server's thread, so it must not block.
    pub fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        if state.cancelled {
            drop(state);
            hook();
        } else {
            state.hooks.push(Box::new(hook));
        }
    }

    pub(crate) fn cancel(&self) {
        let hooks = {
            let mut state = self.state();
            state.cancelled = true;
            std::mem::take(&mut state.hooks)
        };
        hooks.into_iter().for_each(|hook| hook());
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("cancelled", &self.is_cancelled()).finish()
    }
}

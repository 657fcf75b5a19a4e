//! Whether anybody still waits for a call's answer.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Handed to calls that may take long. It is cancelled when the last client waiting for the answer has gone: by
/// closing its connection, by cancelling, or because its deadline passed.
#[derive(Clone, Default)]
pub struct Call(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    hooks: Vec<Box<dyn FnOnce() + Send>>,
}

impl Call {
    /// Whether nobody waits any more. To be asked between two pieces of work.
    pub fn is_cancelled(&self) -> bool {
        self.state().cancelled
    }

    /// Runs `hook` when the call is cancelled, at once if it was. For work that sleeps in a system call: the hook
    /// wakes it. It runs on the server's thread, so it must not block.
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

    /// Holds no lock while foreign code runs, so a poisoned lock has a sound state behind it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("cancelled", &self.is_cancelled()).finish()
    }
}

//! Undo as a value: each step pushes how to undo it; success disarms.

use std::fmt;

/// One step: its name, and how to undo it.
type Gain = (&'static str, Box<dyn FnOnce()>);

/// The steps to undo on drop, last one first, unless disarmed.
#[derive(Default)]
pub struct Undo(Vec<Gain>);

impl Undo {
    /// An undo list without steps.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds how to undo the step just done; `what` names it for debugging.
    pub fn push(&mut self, what: &'static str, take_back: impl FnOnce() + 'static) {
        self.0.push((what, Box::new(take_back)));
    }

    /// Disarms: everything stays as it is.
    pub fn disarm(mut self) {
        self.0.clear();
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        while let Some((_, take_back)) = self.0.pop() {
            take_back();
        }
    }
}

impl fmt::Debug for Undo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(what, _)| what)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[test]
    fn gains_are_taken_back_in_reverse_unless_disarmed() {
        let log = Rc::new(RefCell::new(Vec::new()));
        for disarm in [true, false] {
            let mut undo = Undo::new();
            for name in ["directory", "cgroup"] {
                let log = Rc::clone(&log);
                undo.push(name, move || log.borrow_mut().push(name));
            }
            if disarm { undo.disarm() } else { drop(undo) }
        }
        assert_eq!(*log.borrow(), ["cgroup", "directory"]);
    }
}

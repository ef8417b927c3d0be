//! The runtime's own ensure, as runtimes have it without interp-guard: no guard, nothing to stop the interpreter from
//! ending. What the benchmarks compare with.

use crate::interpreter::Interpreter;
use crate::state::{ThreadState, attached};

/// Inside the runtime's own ensure. Dropping it is the release.
pub struct Own {
    state: ThreadState,
    created: bool,
    was_attached: bool,
}

impl Interpreter {
    /// Uses the thread state of this interpreter that is attached, or the remembered one, or a new one, which is
    /// remembered.
    pub fn ensure(&self) -> Own {
        let current = attached().filter(|state| std::ptr::eq(state.interpreter(), self.0));
        if let Some(state) = current {
            return Own { state, created: false, was_attached: true };
        }
        let remembered = ThreadState::remembered(self.0);
        let state = remembered.unwrap_or_else(|| {
            let state = ThreadState::new(self.0);
            state.remember();
            state
        });
        state.attach();
        Own { state, created: remembered.is_none(), was_attached: false }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        if self.created {
            self.state.destroy();
        } else if !self.was_attached {
            self.state.detach();
        }
    }
}

//! An interpreter ends, or has ended, and nobody can wait for it any more.

use super::{on_close, report, state};
use crate::ground::helpers::say;
use crate::ground::registry::REGISTRY;
use crate::ground::threads::Names;
use interp_guard::InterpreterId;
use std::ptr::null_mut;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Closes an interpreter that ends or has ended, and takes it out if nobody guards it. Never waits.
pub fn retire(id: InterpreterId) {
    on_close::forget(id);
    if let Ok(guard) = REGISTRY.lookup(id) {
        // Relaxed: whoever takes it out does so after this guard.
        guard.keeper.store(null_mut(), Ordering::Relaxed);
    }
    let Ok(closing) = REGISTRY.close(id) else { return };
    if let Err(left) = closing.drain(Some(Duration::ZERO))
        && !state::has_gone_on()
    {
        let (out, lines) =
            (left.undrained().outstanding(), report::holder_lines(left.undrained(), &Names::said()));
        let out = report::still_out(id, out);
        say(&format!("the interpreter ends, and nobody can wait any more: {out}{lines}"));
    }
}

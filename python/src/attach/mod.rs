//! What stands on ensure and release, which are in `levels`.
//!
//! | file | concept |
//! |---|---|
//! | `inside` | where this thread is, and a call inside a level |
//! | `holding` | does the calling thread itself keep an interpreter from finalizing? |
//!
//! May import: ground, levels.

pub mod holding;
pub mod inside;

// May import: ground, word.
//! What C sees of guards and views. The functions behind the headers are in `c_api` and `first_version`.
//!
//! | file | concept |
//! |---|---|
//! | `pointers` | a guard and a view as pointers |
//! | `call_site` | a function whose caller's address is one more argument |

pub mod call_site;
pub mod pointers;

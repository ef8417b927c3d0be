// May import: attach, end, ground.
//! What C sees: the functions behind the headers.
//!
//! | file | concept |
//! |---|---|
//! | `api` | the function table behind `pep788.h` |
//! | `first_version` | references by pointer, for `pep788_v1.h` |
//! | `pointers` | a guard and a view as pointers |
//! | `call_site` | a function whose caller's address is one more argument |

pub mod api;
mod call_site;
pub mod first_version;
mod pointers;

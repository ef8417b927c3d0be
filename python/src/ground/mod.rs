// May import: nothing.
//! What every room stands on: the registry, and what is asked of Python or told to it in the same way everywhere.
//!
//! | file | concept |
//! |---|---|
//! | `python` | what differs between the versions; which thread state is attached here |
//! | `registry` | the process's one registry; IDs and epochs |
//! | `word` | a guard and a view as one tagged word |
//! | `helpers` | small helpers: what is said, what is done with the GIL, Python objects |
//! | `status` | the numbers that calls answer |
//! | `refusals` | what is raised where there is no guard |
//! | `threads` | threads' names |
//! | `creating` | no fork falls into `PyThreadState_New` |

pub mod creating;
pub mod helpers;
pub mod python;
pub mod refusals;
pub mod registry;
pub mod status;
pub mod threads;
pub mod word;

// May import: attach, end, ground, holding.
//! C function pointers that ask before Python is entered.
//!
//! | file | concept |
//! |---|---|
//! | `callbacks` | such pointers for ctypes and cffi |
//! | `trampoline` | what is in front of them, which knows nothing of Python |
//! | `arch` | the machine code of that, one file per architecture |

mod arch;
pub mod callbacks;
mod trampoline;

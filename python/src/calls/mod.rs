// May import: attach, end, ground, holding.
//! C function pointers that ask before Python is entered.
//!
//! | file | concept |
//! |---|---|
//! | `callbacks` | such pointers for ctypes and cffi |
//! | `trampoline` | the machine code in front of them, which knows nothing of Python |

pub mod callbacks;
mod trampoline;

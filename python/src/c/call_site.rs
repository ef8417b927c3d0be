//! A function whose caller's address is one more argument: for the ledger, the call site.

/// `name` is an exported function whose caller's address goes to `body` as one more argument, the ledger's call site.
macro_rules! with_call_site {
    ($visible:vis $name:ident($($type:ty),*) -> $result:ty, $number:tt, $body:path) => {
        #[unsafe(naked)]
        $visible unsafe extern "C" fn $name($(_: $type),*) -> $result {
            interp_guard::jump_with_caller!($number, $body)
        }
    };
}

pub(crate) use with_call_site;

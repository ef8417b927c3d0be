//! A function whose caller's address is one more argument: for the ledger, the call site.

/// `name` is an exported function whose caller's address goes to `body` as one more argument, the ledger's call site.
macro_rules! with_call_site {
    ($visible:vis $name:ident($($type:ty),*) -> $result:ty, $register:literal, $body:path) => {
        #[unsafe(naked)]
        $visible unsafe extern "C" fn $name($(_: $type),*) -> $result {
            // On entry the return address is at the top of the stack; `body` is entered as if called directly.
            core::arch::naked_asm!(concat!("mov ", $register, ", [rsp]"), "jmp {body}", body = sym $body)
        }
    };
}

pub(crate) use with_call_site;

//! x86-64.

use libc::user_regs_struct;
use nix::unistd::Pid;

/// Stops for the tracer, which lets it go on.
#[inline(always)]
pub fn stop() {
    // SAFETY: a trap, which the tracer takes.
    unsafe { std::arch::asm!("int3") };
}

/// The tracer's part of a [`stop`]: to let the process go on behind it, where the processor has not.
pub fn step_over_stop(_: Pid) {}

/// A place at which a process can be forked: its system-call instruction.
pub fn fork_site() -> u64 {
    let site: u64;
    // SAFETY: computes an address; the system call is jumped over.
    unsafe { std::arch::asm!("lea {}, [rip + 2f]", "jmp 3f", "2: syscall", "3:", out(reg) site) };
    site
}

/// The registers with which a process forks at the `site`, for the parent of its own: so it is sent no SIGCHLD.
pub fn forking(here: user_regs_struct, site: u64) -> user_regs_struct {
    let mut forking = here;
    forking.rax = libc::SYS_clone as u64;
    forking.rdi = libc::CLONE_PARENT as u64;
    (forking.rsi, forking.rdx, forking.r10, forking.r8) = (0, 0, 0, 0);
    forking.rip = site;
    forking
}

/// There is no system call to restart.
pub fn forget_call(registers: &mut user_regs_struct) {
    registers.orig_rax = u64::MAX;
}

/// The next instruction, and the stack pointer.
pub fn place(registers: &user_regs_struct) -> (u64, u64) {
    (registers.rip, registers.rsp)
}

/// Does the process, which has stopped for a system call or for a [`stop`], call `rt_sigreturn`?
pub fn calls_sigreturn(registers: &user_regs_struct, _for_call: bool) -> bool {
    registers.orig_rax == libc::SYS_rt_sigreturn as u64
}

/// The number and the second argument of a system call, if the next instruction is one.
pub fn call_ahead(registers: &user_regs_struct) -> (u64, u64) {
    (registers.rax, registers.rsi)
}

/// Do these bytes begin with a system-call instruction?
pub fn is_call(code: i64) -> bool {
    code & 0xFFFF == 0x050F
}

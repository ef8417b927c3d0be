//! AArch64, with LSE: a loop of an exclusive load and store (`ldxr`, `stxr`) that is stepped never ends.

use libc::user_regs_struct;
use nix::sys::ptrace;
use nix::unistd::Pid;

/// `brk #0`, which the processor stands at until it is told to go on behind it.
const STOP: i64 = 0xd420_0000;

/// Stops for the tracer, which lets it go on.
#[inline(always)]
pub fn stop() {
    // SAFETY: a trap, which the tracer takes.
    unsafe { std::arch::asm!("brk #0") };
}

/// The tracer's part of a [`stop`]: to let the process go on behind it. Where it has not stopped for one, nothing, or at most that a stop
/// which is next is left out.
pub fn step_over_stop(process: Pid) {
    let mut registers = ptrace::getregs(process).expect("getregs");
    if ptrace::read(process, registers.pc as *mut _).expect("code") & 0xFFFF_FFFF == STOP {
        registers.pc += 4;
        ptrace::setregs(process, registers).expect("setregs");
    }
}

/// A place at which a process can be forked: its system-call instruction.
pub fn fork_site() -> u64 {
    let site: u64;
    // SAFETY: computes an address; the system call is jumped over.
    unsafe { std::arch::asm!("adr {}, 2f", "b 3f", "2: svc #0", "3:", out(reg) site) };
    site
}

/// The registers with which a process forks at the `site`, for the parent of its own: so it is sent no SIGCHLD.
pub fn forking(here: user_regs_struct, site: u64) -> user_regs_struct {
    let mut forking = here;
    forking.regs[8] = libc::SYS_clone as u64;
    forking.regs[..5].copy_from_slice(&[libc::CLONE_PARENT as u64, 0, 0, 0, 0]);
    forking.pc = site;
    forking
}

/// There is no system call to restart: the kernel restarts none whose answer is not a request for it, and x0 has some other number.
pub fn forget_call(_: &mut user_regs_struct) {}

/// The next instruction, and the stack pointer.
pub fn place(registers: &user_regs_struct) -> (u64, u64) {
    (registers.pc, registers.sp)
}

/// Does the process, which has stopped for a system call or for a [`stop`], call `rt_sigreturn`?
pub fn calls_sigreturn(registers: &user_regs_struct, for_call: bool) -> bool {
    for_call && registers.regs[8] == libc::SYS_rt_sigreturn as u64
}

/// The number and the second argument of a system call, if the next instruction is one.
pub fn call_ahead(registers: &user_regs_struct) -> (u64, u64) {
    (registers.regs[8], registers.regs[1])
}

/// Do these bytes begin with a system-call instruction?
pub fn is_call(code: i64) -> bool {
    code & 0xFFFF_FFFF == 0xd400_0001
}

//! A kernel that refuses: a seccomp filter.

/// From now on each of these system calls fails with `errno`, in every thread of this process and in its children.
pub fn refuse(calls: &[libc::c_long], errno: i32) {
    let step = |code: u32, k: u32, jt, jf| libc::sock_filter { code: code as u16, jt, jf, k };
    let equal = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    let mut filter = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)]; // the system call's number
    for &call in calls {
        filter.push(step(equal, call as u32, 0, 1));
        filter.push(step(libc::BPF_RET, libc::SECCOMP_RET_ERRNO | errno as u32, 0, 0));
    }
    filter.push(step(libc::BPF_RET, libc::SECCOMP_RET_ALLOW, 0, 0));
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: sets a flag.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    let (mode, all) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_TSYNC);
    // SAFETY: `program` describes `filter`, both live; it ends in a return on every path.
    assert_eq!(unsafe { libc::syscall(libc::SYS_seccomp, mode, all, &program) }, 0);
}

//! The system calls of each profile.
//!
//! The lists cover what Rust's standard library, `fuser` and `imago` call once everything is open,
//! with glibc and with musl, on x86-64 and on aarch64. Calls that a profile does not list return
//! ENOSYS, so that a library that tries a newer call falls back to an older one. Calls in
//! [`DEADLY`] kill the process: nothing that it does by itself leads to them.

/// A system call number, as `libc` names it.
pub(super) type Call = libc::c_long;

/// Memory, threads, time, signals: what every Rust program needs. Some calls are restricted
/// further in `filter`.
pub(super) const BASE: &[Call] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_futex,
    libc::SYS_getcpu,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_write,
    libc::SYS_writev,
];

/// Calls that only older interfaces have.
#[cfg(target_arch = "x86_64")]
pub(super) const BASE_OF_ARCHITECTURE: &[Call] = &[libc::SYS_dup2, libc::SYS_poll, libc::SYS_time];
#[cfg(not(target_arch = "x86_64"))]
pub(super) const BASE_OF_ARCHITECTURE: &[Call] = &[];

/// Writing to the overlay.
pub(super) const STORE: &[Call] = &[
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_pwrite64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
];

/// Taking connections on a socket that listens already.
pub(super) const ACCEPT: &[Call] = &[libc::SYS_accept4];

/// Making connections, and what the C library does to look up a name: it reads its configuration, and
/// asks the kernel which addresses this host has. Opening files and making sockets is restricted in
/// `filter`.
pub(super) const CONNECT: &[Call] = &[
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_flock,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_newfstatat,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_setsockopt,
    libc::SYS_uname,
];

/// Calls that only an intruder makes: executing, inspecting or changing other processes, mounting,
/// changing privileges, loading code into the kernel.
pub(super) const DEADLY: &[Call] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_chroot,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_init_module,
    libc::SYS_kcmp,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_mount,
    libc::SYS_open_by_handle_at,
    libc::SYS_perf_event_open,
    libc::SYS_pidfd_getfd,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
];

/// Calls that a tool needs no more than a server does, but that a library may try: they fail with
/// EPERM.
pub(super) const NOT_FOR_TOOLS: &[Call] = &[
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_fsopen,
    libc::SYS_io_uring_setup,
    libc::SYS_listen,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_socket,
];

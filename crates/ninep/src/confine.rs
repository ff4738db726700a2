// SPDX-License-Identifier: Apache-2.0
//! What the server gives up before it listens to a client.

use std::collections::BTreeMap;
use std::path::Path;

use nix::errno::Errno;
use nix::sys::prctl::set_no_new_privs;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{chdir, chroot};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// What root keeps: the rights to files (capabilities(7)): `CAP_CHOWN`,
/// `DAC_OVERRIDE`, `DAC_READ_SEARCH`, `FOWNER`, `FSETID`; and to make them as
/// another: `SETGID`, `SETUID`, of which the filter leaves setfsuid(2) alone.
const FILE_RIGHTS: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7;

/// `SECBIT_NO_SETUID_FIXUP`: rights stay when the user changes.
const KEEP_RIGHTS: libc::c_ulong = 1 << 2;

/// `_LINUX_CAPABILITY_VERSION_3`
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Files, memory, threads, the sockets that are there: nothing that opens a
/// socket, starts a program, traces, mounts or changes who we are.
const CALLS: &[libc::c_long] = &[
    libc::SYS_accept4,
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_clone,
    libc::SYS_clone3,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_futex,
    libc::SYS_getdents64,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_linkat,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mkdirat,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_prctl,
    libc::SYS_pread64,
    libc::SYS_prlimit64,
    libc::SYS_pwrite64,
    libc::SYS_read,
    libc::SYS_readlinkat,
    libc::SYS_recvfrom,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendto,
    libc::SYS_set_robust_list,
    libc::SYS_setfsgid,
    libc::SYS_setfsuid,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_tgkill,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
    libc::SYS_write,
    libc::SYS_writev,
];

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct Rights {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Takes as many open files as there may be: each of a client's is one or two.
pub fn open_files() -> nix::Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    // Modes come from the client, which has a umask of its own.
    umask(Mode::empty());
    Ok(())
}

/// Makes a folder all that there is.
pub fn lock_up(root: &Path) -> nix::Result<()> {
    chroot(root)?;
    chdir("/")
}

/// Gives up the rights of root, or all but those to files.
pub fn drop_rights(is_root: bool) -> nix::Result<()> {
    set_no_new_privs()?;
    if is_root {
        // SAFETY: this prctl(2) takes numbers alone.
        Errno::result(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, KEEP_RIGHTS) })?;
    }
    let kept = if is_root { FILE_RIGHTS } else { 0 };
    let header = Header {
        version: CAPABILITY_VERSION,
        pid: 0,
    };
    let low = Rights {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    };
    let rights = [low, Rights::default()];
    // SAFETY: capset(2) reads a header and, in this version, two sets; both live
    // until it returns.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, rights.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Lets the kernel refuse every other system call, with EPERM.
pub fn filter_calls() -> Result<(), seccompiler::Error> {
    let rules: BTreeMap<_, _> = CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM.unsigned_abs()),
        SeccompAction::Allow,
        seccompiler::TargetArch::x86_64,
    )?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)
}

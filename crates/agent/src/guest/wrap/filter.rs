// SPDX-License-Identifier: Apache-2.0
//! The system calls that a watcher is asked about, as a seccomp filter.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use inn_inet::options::{self, SOCKET};
use libc::sock_filter;

/// FIONREAD.
pub const FIONREAD: u32 = 0x541b;

/// AUDIT_ARCH_X86_64 (linux/audit.h).
const ARCH: u32 = 0xc000_003e;
/// Numbers from here on are those of x32, whose programs nobody has.
const X32: u32 = 0x4000_0000;

// struct seccomp_data: where the low halves of its fields are.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const SECOND_ARGUMENT: u32 = 24;
const THIRD_ARGUMENT: u32 = 32;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;

const ALLOW: sock_filter = step(RETURN, libc::SECCOMP_RET_ALLOW);
const ASK: sock_filter = step(RETURN, libc::SECCOMP_RET_USER_NOTIF);

/// Calls that are asked about whatever their arguments.
const ALWAYS: [i64; 7] = [
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
];

/// Levels of options that vsock does not know.
const LEVELS: [i32; 3] = [options::IP, options::TCP, options::IPV6];

const fn step(code: u16, value: u32) -> sock_filter {
    sock_filter {
        code,
        jt: 0,
        jf: 0,
        k: value,
    }
}

/// Runs the next step only where the loaded word is `value`.
const fn only_if(code: u16, value: u32) -> sock_filter {
    sock_filter {
        jf: 1,
        ..step(code, value)
    }
}

/// What runs where the call is this one: it ends with a return.
fn of_call(number: i64, body: &[sock_filter], program: &mut Vec<sock_filter>) {
    let mut test = step(EQUAL, number as u32);
    // No body is longer than a jump.
    test.jf = body.len() as u8;
    program.push(test);
    program.extend(body);
}

fn options_body(socket_options: &[i32]) -> Vec<sock_filter> {
    let mut body = vec![step(LOAD, SECOND_ARGUMENT)];
    for level in LEVELS {
        body.extend([only_if(EQUAL, level as u32), ASK]);
    }
    let mut names = vec![step(LOAD, THIRD_ARGUMENT)];
    for name in socket_options {
        names.extend([only_if(EQUAL, *name as u32), ASK]);
    }
    let mut test = step(EQUAL, SOCKET as u32);
    test.jf = names.len() as u8;
    body.push(test);
    body.extend(names);
    body.push(ALLOW);
    body
}

/// The filter.
fn program() -> Vec<sock_filter> {
    let mut program = vec![
        step(LOAD, ARCHITECTURE),
        // Other words for the same calls: those programs are left alone.
        sock_filter {
            jt: 1,
            ..step(EQUAL, ARCH)
        },
        ALLOW,
        step(LOAD, NUMBER),
        only_if(AT_LEAST, X32),
        ALLOW,
    ];
    for number in ALWAYS {
        of_call(number, &[ASK], &mut program);
    }
    let set = options_body(&[options::SO_PRIORITY]);
    of_call(libc::SYS_setsockopt, &set, &mut program);
    let get = options_body(&[
        options::SO_ERROR,
        options::SO_PRIORITY,
        options::SO_PROTOCOL,
        options::SO_DOMAIN,
    ]);
    of_call(libc::SYS_getsockopt, &get, &mut program);
    let bytes = [
        step(LOAD, SECOND_ARGUMENT),
        only_if(EQUAL, FIONREAD),
        ASK,
        ALLOW,
    ];
    of_call(libc::SYS_ioctl, &bytes, &mut program);
    program.push(ALLOW);
    program
}

/// Sets the filter on this process and all that come of it; the descriptor on which
/// their calls are asked about. `None` where somebody is asked about them already.
pub fn install() -> io::Result<Option<OwnedFd>> {
    let mut steps = program();
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    let set = || {
        // SAFETY: the program and its steps outlive the call.
        let done = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        match done {
            fd if fd >= 0 => Ok(fd as i32),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let result = match set() {
        // Who is not root first promises never to become it.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => {
            // SAFETY: takes numbers alone.
            unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
            set()
        }
        result => result,
    };
    match result {
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(fd) => Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) })),
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel does.
    fn decision(arch: u32, number: i64, second: u32, third: u32) -> u32 {
        let steps = program();
        let (mut at, mut word) = (0, 0);
        loop {
            let step = steps[at];
            at += 1;
            match step.code {
                LOAD => {
                    word = match step.k {
                        NUMBER => number as u32,
                        ARCHITECTURE => arch,
                        SECOND_ARGUMENT => second,
                        THIRD_ARGUMENT => third,
                        other => panic!("{other}"),
                    }
                }
                EQUAL if word == step.k => at += usize::from(step.jt),
                EQUAL => at += usize::from(step.jf),
                AT_LEAST if word >= step.k => at += usize::from(step.jt),
                AT_LEAST => at += usize::from(step.jf),
                RETURN => return step.k,
                other => panic!("{other}"),
            }
        }
    }

    #[test]
    fn what_is_asked_about() {
        let asked = |number, second: i32, third: i32| {
            decision(ARCH, number, second as u32, third as u32) == libc::SECCOMP_RET_USER_NOTIF
        };
        for number in ALWAYS {
            assert!(asked(number, 0, 0), "{number}");
        }
        let (set, get) = (libc::SYS_setsockopt, libc::SYS_getsockopt);
        for level in LEVELS {
            assert!(asked(set, level, 1) && asked(get, level, 1), "{level}");
        }
        assert!(asked(set, SOCKET, options::SO_PRIORITY));
        assert!(asked(get, SOCKET, options::SO_ERROR));
        assert!(asked(libc::SYS_ioctl, FIONREAD as i32, 0));
        assert!(!asked(set, SOCKET, options::SO_ERROR));
        assert!(!asked(get, SOCKET, 2));
        assert!(!asked(get, 40, 0));
        assert!(!asked(libc::SYS_ioctl, 0x5401, 0));
        for number in [
            libc::SYS_read,
            libc::SYS_execve,
            libc::SYS_sendmsg,
            libc::SYS_socket,
        ] {
            assert!(!asked(number, 0, 0), "{number}");
        }
    }

    #[test]
    fn other_architectures_are_left_alone() {
        let connect = libc::SYS_connect;
        assert_eq!(
            decision(0x4000_0003, connect, 0, 0),
            libc::SECCOMP_RET_ALLOW
        );
        assert_eq!(
            decision(ARCH, connect | i64::from(X32), 0, 0),
            libc::SECCOMP_RET_ALLOW
        );
    }
}

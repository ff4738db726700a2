// SPDX-License-Identifier: Apache-2.0
//! The errors a caller gets, with the numbers of Linux, which are Xen's too.

/// Why an operation was refused.
///
/// The text says when the mediator answers so; where Argo has the error too,
/// it means the same (`xen/common/argo.c`), unless `docs/reference/rings.md`
/// lists a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(i32)]
pub enum Errno {
    /// Wildcard ring without `mac-permissive`; a source that is not the caller's.
    #[error("EPERM")]
    Eperm = 1,
    /// The caller has no such ring or port.
    #[error("ENOENT")]
    Enoent = 2,
    /// The partner or destination domain does not exist.
    #[error("ESRCH")]
    Esrch = 3,
    /// No room now; the caller waits in the ring's line.
    #[error("EAGAIN")]
    Eagain = 11,
    /// The domain's ring memory is used up.
    #[error("ENOMEM")]
    Enomem = 12,
    /// The policy refuses, and says so.
    #[error("EACCES")]
    Eacces = 13,
    /// The carrier could not read the caller's bytes.
    #[error("EFAULT")]
    Efault = 14,
    /// No room now, and the ring's line is full too.
    #[error("EBUSY")]
    Ebusy = 16,
    /// The ring exists (`FAIL_EXIST`), or with another size; the domain exists.
    #[error("EEXIST")]
    Eexist = 17,
    /// The caller's own domain takes no part in rings, or is gone.
    #[error("ENODEV")]
    Enodev = 19,
    /// Geometry, padding, flags or counts that no call may have.
    #[error("EINVAL")]
    Einval = 22,
    /// The domain has too many endpoints.
    #[error("EMFILE")]
    Emfile = 24,
    /// The domain has too many rings or ports; the mediator too many domains.
    #[error("ENOSPC")]
    Enospc = 28,
    /// There is no mediator.
    #[error("ENOSYS")]
    Enosys = 38,
    /// The message can never fit.
    #[error("EMSGSIZE")]
    Emsgsize = 90,
    /// The mediator is switched off, or has no such operation.
    #[error("EOPNOTSUPP")]
    Eopnotsupp = 95,
    /// Another endpoint of the domain owns the port.
    #[error("EADDRINUSE")]
    Eaddrinuse = 98,
    /// No ring takes messages from the caller at this port.
    #[error("ECONNREFUSED")]
    Econnrefused = 111,
}

impl Errno {
    /// The positive number, as in `errno.h`.
    #[must_use]
    pub const fn number(self) -> i32 {
        self as i32
    }
}

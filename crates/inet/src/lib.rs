// SPDX-License-Identifier: Apache-2.0
//! Inet addresses that stand for guests, and AF_VSOCK sockets that take the place of
//! programs' AF_INET and AF_INET6 ones.
//!
//! [`address`] and [`options`] are pure: which address is which guest, and what a
//! program hears of a replaced socket's TCP options. [`swap`] makes and connects the
//! sockets by the system calls of [`sys`], in the program itself (the preload library)
//! or in the process that watches it (`inn-guest wrap --mode seccomp`). What a replaced
//! socket has to remember lies in the kernel, as the socket's `SO_PRIORITY`, which means
//! nothing to vsock: so it survives dup, fork, exec and SCM_RIGHTS, and nobody keeps a
//! table of descriptors.
#![cfg_attr(not(test), no_std)]

pub mod address;
pub mod environment;
pub mod options;
pub mod swap;
pub mod sys;

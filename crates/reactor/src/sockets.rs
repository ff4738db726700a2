// SPDX-License-Identifier: Apache-2.0
//! What a descriptor from elsewhere has to be.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Makes sure that `fd` is a Unix stream socket, and listening where asked.
///
/// # Errors
/// It is not.
pub fn check_socket(fd: &OwnedFd, listening: bool) -> io::Result<()> {
    let is_stream = sockopt::socket_domain(fd)? == AddressFamily::UNIX
        && sockopt::socket_type(fd)? == SocketType::STREAM;
    if !is_stream || sockopt::socket_acceptconn(fd)? != listening {
        return Err(Errno::INVAL.into());
    }
    Ok(())
}

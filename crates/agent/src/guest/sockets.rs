// SPDX-License-Identifier: Apache-2.0
//! Sockets for addresses: TCP, vsock and Unix ones are the same once they are open.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrLike, SockaddrStorage, UnixAddr, VsockAddr,
    accept4, bind, connect, getpeername, listen, setsockopt, socket, sockopt,
};
use nix::sys::time::TimeVal;

use super::address::Address;
use super::hosts::Hosts;

/// Connections that wait for accept, as the device on the host has at a time.
const BACKLOG: i32 = 1024;

/// How long the kernel waits for the answer of a vsock peer. Its own 2 s are
/// less than what a busy peer may take.
const VSOCK_PATIENCE: libc::timeval = libc::timeval {
    tv_sec: 10,
    tv_usec: 0,
};

// linux/vm_sockets.h
const SO_VM_SOCKETS_BUFFER_SIZE: libc::c_int = 0;
const SO_VM_SOCKETS_BUFFER_MAX_SIZE: libc::c_int = 2;
const SO_VM_SOCKETS_CONNECT_TIMEOUT: libc::c_int = 6;
const VMADDR_FLAG_TO_HOST: u8 = 1;

/// Longest answer to `CONNECT <port>`.
const HYBRID_LINE: usize = 32;

/// An address that was looked up.
pub struct Target {
    family: AddressFamily,
    address: Box<dyn SockaddrLike + Send + Sync>,
    /// A vsock address as kernels before 5.11 want it, which know no flags.
    plain: Option<VsockAddr>,
}

impl Target {
    /// Where to connect to.
    pub fn to_connect(address: &Address, hosts: &Hosts) -> Result<Self, String> {
        match address {
            Address::Vsock { peer, port } => {
                let cid = hosts.cid(peer)?;
                Ok(Self {
                    family: AddressFamily::Vsock,
                    address: Box::new(to_host(cid, *port)),
                    plain: Some(VsockAddr::new(cid, *port)),
                })
            }
            other => Self::same_for_both(other, hosts, Ipv4Addr::LOCALHOST),
        }
    }

    /// Where to listen.
    pub fn to_listen(address: &Address, hosts: &Hosts) -> Result<Self, String> {
        match address {
            Address::Vsock { port, .. } => Ok(Self {
                family: AddressFamily::Vsock,
                address: Box::new(VsockAddr::new(libc::VMADDR_CID_ANY, *port)),
                plain: None,
            }),
            Address::Hybrid { .. } => Err(format!("{address}: is for connecting only")),
            other => Self::same_for_both(other, hosts, Ipv4Addr::UNSPECIFIED),
        }
    }

    fn same_for_both(address: &Address, hosts: &Hosts, unsaid: Ipv4Addr) -> Result<Self, String> {
        let (family, address): (_, Box<dyn SockaddrLike + Send + Sync>) = match address {
            Address::Tcp { host, port } => {
                let ip = Address::inet(host, hosts, IpAddr::from(unsaid))?;
                let family = match ip {
                    IpAddr::V4(_) => AddressFamily::Inet,
                    IpAddr::V6(_) => AddressFamily::Inet6,
                };
                let both = SockaddrStorage::from(SocketAddr::new(ip, *port));
                (family, Box::new(both))
            }
            Address::Unix(path) | Address::Hybrid { path, .. } => {
                let address = unix(path).map_err(|errno| format!("{}: {errno}", path.display()))?;
                (AddressFamily::Unix, Box::new(address))
            }
            Address::Vsock { .. } => return Err(format!("{address}: looked up elsewhere")),
        };
        Ok(Self {
            family,
            address,
            plain: None,
        })
    }

    /// A socket that is connected, or, where it must not block, begins to.
    pub fn connect(&self, options: Options) -> io::Result<(OwnedFd, bool)> {
        let mut address: &dyn SockaddrLike = &*self.address;
        let plain = self.plain;
        let mut fd = self.socket(options)?;
        loop {
            match (connect(fd.as_raw_fd(), address), &plain) {
                (Ok(()), _) => return Ok((fd, true)),
                (Err(Errno::EINPROGRESS), _) => return Ok((fd, false)),
                (Err(Errno::EINTR), _) => {}
                (Err(Errno::EINVAL), Some(plain)) if !std::ptr::addr_eq(address, plain) => {
                    address = plain;
                    fd = self.socket(options)?;
                }
                (Err(errno), _) => return Err(errno.into()),
            }
        }
    }

    /// A socket that listens.
    pub fn listen(&self, options: Options) -> io::Result<OwnedFd> {
        let fd = self.socket(options)?;
        if matches!(self.family, AddressFamily::Inet | AddressFamily::Inet6) {
            setsockopt(&fd, sockopt::ReuseAddr, &true)?;
        }
        bind(fd.as_raw_fd(), &*self.address)?;
        listen(&fd, Backlog::new(BACKLOG)?)?;
        Ok(fd)
    }

    fn socket(&self, options: Options) -> io::Result<OwnedFd> {
        let mut flags = SockFlag::SOCK_CLOEXEC;
        if !options.blocking {
            flags |= SockFlag::SOCK_NONBLOCK;
        }
        let fd = socket(self.family, SockType::Stream, flags, None)?;
        match (self.family, options.buffer_bytes) {
            (AddressFamily::Vsock, bytes) => set_up_vsock(&fd, bytes)?,
            (_, Some(bytes)) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                setsockopt(&fd, sockopt::SndBuf, &bytes)?;
                setsockopt(&fd, sockopt::RcvBuf, &bytes)?;
            }
            (_, None) => {}
        }
        Ok(fd)
    }
}

/// What a socket should be like.
#[derive(Clone, Copy)]
pub struct Options {
    /// Whether calls wait.
    pub blocking: bool,
    /// The socket's buffers, where the kernel's default is not wanted.
    pub buffer_bytes: Option<u64>,
}

/// Small writes leave at once; nothing for sockets that are not TCP.
pub fn without_delay(fd: &OwnedFd) {
    let _ = setsockopt(fd, sockopt::TcpNoDelay, &true);
}

/// Whether the other end of a vsock connection is this machine.
pub fn comes_from(fd: &OwnedFd, cid: u32) -> bool {
    getpeername::<VsockAddr>(fd.as_raw_fd()).is_ok_and(|peer| peer.cid() == cid)
}

/// The next connection, waited for.
pub fn accept_one(listener: &OwnedFd) -> io::Result<OwnedFd> {
    loop {
        match accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) {
            // SAFETY: accept4 has just returned this descriptor; nothing else owns it.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
            Err(Errno::EINTR | Errno::ECONNABORTED) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// A connected socket whose calls wait, at most `stall` for the next byte.
pub fn dial(address: &Address, options: Options, stall: Duration) -> Result<UnixStream, String> {
    let target = Target::to_connect(address, &Hosts::read())?;
    let failed = |error| explained(address, &error);
    let (fd, _) = target.connect(options).map_err(failed)?;
    without_delay(&fd);
    wait_at_most(&fd, stall).map_err(failed)?;
    // Read, write and shut down are the same for every stream socket.
    let mut stream = UnixStream::from(fd);
    if let Address::Hybrid { port, .. } = address {
        ask_device(&mut stream, *port).map_err(failed)?;
    }
    Ok(stream)
}

/// Calls on the socket fail once nothing moved for this long.
pub fn wait_at_most(fd: &OwnedFd, stall: Duration) -> io::Result<()> {
    let limit = TimeVal::new(i64::try_from(stall.as_secs()).unwrap_or(i64::MAX), 0);
    setsockopt(fd, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(fd, sockopt::SendTimeout, &limit)?;
    Ok(())
}

fn ask_device(stream: &mut UnixStream, port: u32) -> io::Result<()> {
    stream.write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut line = Vec::new();
    // Byte by byte: what follows the line is not ours.
    while line.len() < HYBRID_LINE {
        let mut byte = [0];
        if stream.read(&mut byte)? == 0 {
            return Err(Errno::ECONNREFUSED.into());
        }
        if byte == *b"\n" {
            break;
        }
        line.push(byte[0]);
    }
    if line.starts_with(b"OK ") {
        return Ok(());
    }
    Err(Errno::EPROTO.into())
}

/// What went wrong with an address, and what that usually means.
pub fn explained(address: &Address, error: &io::Error) -> String {
    let vsock = matches!(address, Address::Vsock { .. } | Address::Hybrid { .. });
    let meaning = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ECONNRESET | Errno::ECONNREFUSED) if vsock => {
            "nobody listens there, or no rule of the topology allows it"
        }
        Some(Errno::ECONNREFUSED) => "nobody listens there",
        Some(Errno::ETIMEDOUT) => "no answer",
        Some(Errno::EAGAIN) => "nothing moved any more",
        Some(Errno::ENODEV | Errno::EAFNOSUPPORT) if vsock => "this machine has no vsock device",
        Some(Errno::EADDRINUSE) => "somebody else listens there",
        _ => return format!("{address}: {error}"),
    };
    format!("{address}: {meaning} ({error})")
}

fn unix(path: &Path) -> nix::Result<UnixAddr> {
    match path.as_os_str().as_bytes().strip_prefix(b"@") {
        Some(name) => UnixAddr::new_abstract(name),
        None => UnixAddr::new(path),
    }
}

/// A vsock address that leads out of the guest, also where the guest runs guests
/// of its own.
fn to_host(cid: u32, port: u32) -> VsockAddr {
    let plain = VsockAddr::new(cid, port);
    if cid <= libc::VMADDR_CID_HOST {
        return plain;
    }
    let mut raw = *plain.as_ref();
    raw.svm_zero[0] = VMADDR_FLAG_TO_HOST;
    // SAFETY: `raw` is a whole sockaddr_vm of family AF_VSOCK.
    unsafe { VsockAddr::from_raw((&raw const raw).cast(), None) }.unwrap_or(plain)
}

fn set_up_vsock(fd: &OwnedFd, buffer_bytes: Option<u64>) -> io::Result<()> {
    if let Some(bytes) = buffer_bytes {
        set_vsock(fd, SO_VM_SOCKETS_BUFFER_MAX_SIZE, &bytes)?;
        set_vsock(fd, SO_VM_SOCKETS_BUFFER_SIZE, &bytes)?;
    }
    set_vsock(fd, SO_VM_SOCKETS_CONNECT_TIMEOUT, &VSOCK_PATIENCE)
}

fn set_vsock<T>(fd: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    let size = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the pointer and the size are those of `value`; the kernel reads only.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::AF_VSOCK,
            option,
            std::ptr::from_ref(value).cast(),
            size,
        )
    };
    Errno::result(result)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAITING: Options = Options {
        blocking: true,
        buffer_bytes: Some(1 << 16),
    };

    #[test]
    fn an_abstract_socket_connects_and_a_missing_one_is_explained() {
        let name = format!("unix:@inn-sockets-{}", std::process::id());
        let address = Address::parse(name.as_ref()).unwrap();
        let error = dial(&address, WAITING, Duration::from_secs(5)).unwrap_err();
        assert!(error.contains("nobody listens there"), "{error}");
        let target = Target::to_listen(&address, &Hosts::default()).unwrap();
        let listener = target.listen(WAITING).unwrap();
        let mut near = dial(&address, WAITING, Duration::from_secs(5)).unwrap();
        let mut far = UnixStream::from(accept_one(&listener).unwrap());
        near.write_all(b"x").unwrap();
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
        assert!(target.listen(WAITING).is_err(), "taken");
    }

    #[test]
    fn peers_lie_behind_the_host() {
        let flags = |cid| to_host(cid, 7).as_ref().svm_zero[0];
        assert_eq!((flags(1), flags(2), flags(3)), (0, 0, VMADDR_FLAG_TO_HOST));
        assert_eq!((to_host(3, 7).cid(), to_host(3, 7).port()), (3, 7));
    }

    #[test]
    fn the_hosts_convention_listens_nowhere() {
        let address = Address::parse("hybrid:/run/x:7".as_ref()).unwrap();
        assert!(Target::to_listen(&address, &Hosts::default()).is_err());
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Makes and connects the vsock socket that takes the place of an inet one, and answers
//! for it afterwards.
//!
//! ```text
//! connect(240.0.0.N:P) ──> socket, options copied, bound to a port below 65536
//!                          └─ connected without waiting ──> the program's number
//! bind(own address)    ──> socket, bound ──────────────────> the program's number
//! listen after a bind to the wildcard ──> socket, bound, listening ──> its number
//! ```
//!
//! Nothing here gives the program its new descriptor: the caller does, by dup3 or from
//! outside, in the order that its mode needs.

use crate::address::{self, Form, LOCAL_CID, Meaning, Written};
use crate::options::{self, SO_DOMAIN, SO_ERROR, SO_PRIORITY, SO_PROTOCOL, SOCKET, Value};
use crate::sys::{self, Errno, Owned, Result, VsockAddress};

/// SOCK_STREAM.
const STREAM: i32 = 1;
/// SOCK_CLOEXEC and O_CLOEXEC.
pub const CLOEXEC: i32 = 0o200_0000;
/// SOCK_NONBLOCK and O_NONBLOCK.
pub const NONBLOCK: i32 = 0o4000;
const GETFL: i32 = 3;
const SETFL: i32 = 4;

/// IPPROTO_TCP and IPPROTO_MPTCP, which Go listens with.
const STREAM_PROTOCOLS: [i32; 2] = [6, 262];

/// What a socket has been told that its replacement has to know: SO_REUSEADDR,
/// SO_KEEPALIVE, SO_LINGER, SO_REUSEPORT, SO_RCVLOWAT, SO_RCVTIMEO, SO_SNDTIMEO.
const COPIED_OPTIONS: [i32; 7] = [2, 9, 13, 15, 18, 20, 21];
const RCVTIMEO: i32 = 20;
const SNDTIMEO: i32 = 21;

/// How long a connect may take: vsock's own limit is 2 s, after which a busy guest
/// would seem gone. TCP's is about this long.
const CONNECT_LIMIT_S: i64 = 130;
const SO_VM_SOCKETS_CONNECT_TIMEOUT: i32 = 6;
const LEVEL_VSOCK: i32 = 40;

/// Where Linux takes client ports from (net.ipv4.ip_local_port_range).
const FIRST_PORT: u32 = 32_768;
const PORTS: u32 = 28_232;

/// What the environment decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// INET_IS_ARGO: 1.0.hi.lo are addresses, too.
    pub argo: bool,
    /// ARGO_ACCEPT_DOM0_ONLY: only the host gets in.
    pub host_only: bool,
    /// ARGO_CLIENT_PORT_ADDEND: a client's own port is the server's and this.
    pub addend: Option<u16>,
}

/// Whether a socket is a TCP socket, and of which family.
fn stream_family(fd: i32) -> Option<u16> {
    let domain = sys::number_option(fd, SOCKET, SO_DOMAIN).ok()?;
    let family = u16::try_from(domain).ok()?;
    let protocol = sys::number_option(fd, SOCKET, SO_PROTOCOL).ok()?;
    let of_ours = [address::INET, address::INET6].contains(&family);
    (of_ours && STREAM_PROTOCOLS.contains(&protocol)).then_some(family)
}

/// The form of a socket that was put in place of an inet one; `None` of all others.
pub fn form_of(fd: i32) -> Option<Form> {
    let domain = sys::number_option(fd, SOCKET, SO_DOMAIN).ok()?;
    if domain != i32::from(address::VSOCK) {
        return None;
    }
    Form::of_mark(sys::number_option(fd, SOCKET, SO_PRIORITY).ok()?)
}

/// Marks a socket.
pub fn mark(fd: i32, form: Form) -> Result<()> {
    sys::set_option(fd, SOCKET, SO_PRIORITY, &form.mark().to_ne_bytes())
}

/// A vsock socket that has what `fd` was told; not bound, and not yet with its flags.
fn replacement(fd: i32, form: Form) -> Result<Owned> {
    let new = sys::socket(address::VSOCK, STREAM | CLOEXEC).map_err(|errno| match errno {
        Errno::EAFNOSUPPORT => Errno::ENETUNREACH,
        errno => errno,
    })?;
    for name in COPIED_OPTIONS {
        let mut value = [0; 16];
        if let Ok(length) = sys::option(fd, SOCKET, name, &mut value) {
            let value = value.get(..length).unwrap_or_default();
            // One that vsock has no use for is no reason to refuse.
            let _ = sys::set_option(new.get(), SOCKET, name, value);
        }
    }
    let mut limit = [0; 16];
    limit[..8].copy_from_slice(&CONNECT_LIMIT_S.to_ne_bytes());
    let _ = sys::set_option(
        new.get(),
        LEVEL_VSOCK,
        SO_VM_SOCKETS_CONNECT_TIMEOUT,
        &limit,
    );
    mark(new.get(), form)?;
    Ok(new)
}

/// Gives `to` the status flags of `from` (O_NONBLOCK).
pub fn copy_flags(from: i32, to: i32) -> Result<()> {
    let flags = sys::fcntl(from, GETFL, 0)?;
    sys::fcntl(to, SETFL, flags).map(drop)
}

/// Whether calls on this socket do not wait.
pub fn is_nonblocking(fd: i32) -> bool {
    sys::fcntl(fd, GETFL, 0).is_ok_and(|flags| flags & NONBLOCK != 0)
}

/// Binds to this port, or to a free one below 65536 for port 0.
fn bind_port(fd: i32, cid: u32, port: u32) -> Result<()> {
    if port != 0 {
        return sys::bind(fd, &VsockAddress::local(cid, port));
    }
    // The kernel's own choice could be above 65535, which no inet address can say.
    let start = sys::random();
    for step in 0..PORTS {
        let port = FIRST_PORT + start.wrapping_add(step) % PORTS;
        match sys::bind(fd, &VsockAddress::local(cid, port)) {
            Err(Errno::EADDRINUSE) => {}
            result => return result,
        }
    }
    Err(Errno::EADDRINUSE)
}

/// The port that the program has bound; 0 for none.
fn bound_port(fd: i32) -> Result<u32> {
    let own = sys::own_address(fd)?;
    if let Some(vsock) = own.vsock() {
        return Ok(if vsock.port == sys::ANY_PORT {
            0
        } else {
            vsock.port
        });
    }
    let port = match own.as_bytes() {
        [_, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 0,
    };
    Ok(u32::from(port))
}

/// A socket whose connect has begun.
#[derive(Debug)]
pub struct Begun {
    /// The vsock socket; it does not wait, whatever the program's did.
    pub socket: Owned,
    /// Whether the other end has answered already.
    pub connected: bool,
}

/// Whether `fd` is a TCP socket that can have addresses of this form.
pub fn wants_form(fd: i32, form: Form) -> bool {
    stream_family(fd) == Some(form.family())
}

/// Makes a socket in place of `fd` and begins to connect it.
///
/// `own` is this guest's CID, which getsockname is to say. Errors are TCP's.
pub fn begin_connect(
    fd: i32,
    form: Form,
    to: &VsockAddress,
    own: Option<u32>,
    settings: Settings,
) -> Result<Begun> {
    let socket = replacement(fd, form)?;
    let wanted = match settings.addend {
        Some(addend) => match to.port + u32::from(addend) {
            // What the other end sees has to be what was asked for.
            65_536.. => return Err(Errno::EINVAL),
            port => port,
        },
        None => bound_port(fd)?,
    };
    let cid = own.unwrap_or(address::ANY_CID);
    match bind_port(socket.get(), cid, wanted) {
        // The kernel chose this one for bind(0), in TCP's space, where it was free.
        Err(Errno::EADDRINUSE) if settings.addend.is_none() && wanted >= FIRST_PORT => {
            bind_port(socket.get(), cid, 0).map_err(connect_errno)?;
        }
        result => result.map_err(connect_errno)?,
    }
    sys::fcntl(socket.get(), SETFL, NONBLOCK)?;
    match sys::connect(socket.get(), to) {
        Ok(()) => Ok(Begun {
            socket,
            connected: true,
        }),
        Err(Errno::EINPROGRESS) => Ok(Begun {
            socket,
            connected: false,
        }),
        Err(errno) => Err(connect_errno(errno)),
    }
}

/// TCP's word for what vsock says of a connect.
pub fn connect_errno(errno: Errno) -> Errno {
    match errno {
        // A reset is how a port without a listener answers.
        Errno::ECONNRESET => Errno::ECONNREFUSED,
        Errno::ENODEV | Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL => Errno::ENETUNREACH,
        errno => errno,
    }
}

/// The error that a replaced socket keeps, which reading it takes away.
pub fn take_error(fd: i32) -> Result<()> {
    match sys::number_option(fd, SOCKET, SO_ERROR)? {
        0 => Ok(()),
        errno => Err(connect_errno(Errno(errno))),
    }
}

/// How long a connect that waits may last, in ms; below 0 for as long as it takes.
pub fn connect_timeout_ms(fd: i32) -> i32 {
    timeout_ms(fd, SNDTIMEO)
}

/// The same of an accept.
pub fn accept_timeout_ms(fd: i32) -> i32 {
    timeout_ms(fd, RCVTIMEO)
}

fn timeout_ms(fd: i32, name: i32) -> i32 {
    let mut value = [0; 16];
    if sys::option(fd, SOCKET, name, &mut value).is_err() {
        return -1;
    }
    let (seconds, micros) = value.split_at(8);
    let number = |bytes: &[u8]| bytes.try_into().map_or(0, i64::from_ne_bytes);
    let (seconds, micros) = (number(seconds), number(micros));
    if (seconds, micros) == (0, 0) {
        return -1;
    }
    let ms = seconds
        .saturating_mul(1000)
        .saturating_add(micros.div_euclid(1000) + 1);
    i32::try_from(ms).unwrap_or(i32::MAX)
}

/// What a connect of a replaced socket comes to: one that was bound to the guest's own
/// address, or whose connect was begun before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// It is over.
    Over(Result<()>),
    /// Under way; the errno is for programs that do not wait.
    UnderWay(Errno),
    /// It failed earlier, and the program knows: it takes another socket.
    Anew,
}

/// Connects a replaced socket; never waits.
pub fn connect_again(fd: i32, to: &VsockAddress) -> Again {
    match attempt(fd, to) {
        Err(Errno::EINPROGRESS) => return Again::UnderWay(Errno::EINPROGRESS),
        Err(Errno::EALREADY) => {}
        result => return Again::Over(result.map_err(connect_errno)),
    }
    // vsock says so of connects that failed, too.
    match sys::poll(fd, sys::POLL_OUT, 0) {
        Ok(false) => return Again::UnderWay(Errno::EALREADY),
        Ok(true) => {}
        Err(errno) => return Again::Over(Err(errno)),
    }
    if sys::peer_address(fd).is_ok() {
        return Again::Over(Err(Errno::EISCONN));
    }
    match take_error(fd) {
        Ok(()) => Again::Anew,
        Err(errno) => Again::Over(Err(errno)),
    }
}

/// Tries without waiting: a socket whose connect failed would wait for an answer that
/// nobody sends.
fn attempt(fd: i32, to: &VsockAddress) -> Result<()> {
    let flags = sys::fcntl(fd, GETFL, 0)?;
    sys::fcntl(fd, SETFL, flags | NONBLOCK)?;
    let result = sys::connect(fd, to);
    sys::fcntl(fd, SETFL, flags)?;
    result
}

/// The socket that takes the place of `fd` when the program binds it to `to`; `None`
/// where that is none of ours.
pub fn bind(fd: i32, to: &[u8], settings: Settings) -> Option<Result<Owned>> {
    let Meaning::Guest { cid, port, form } = address::meaning(to, settings.argo)? else {
        return None;
    };
    if !wants_form(fd, form) {
        return None;
    }
    // Domain 0 is "any" to those who knew it: a guest is never the host.
    let any = form == Form::Argo && cid == address::HOST_CID;
    let cid = if any { address::ANY_CID } else { cid };
    let make = || {
        let new = replacement(fd, form)?;
        bind_port(new.get(), cid, u32::from(port))?;
        copy_flags(fd, new.get())?;
        Ok(new)
    };
    Some(make())
}

/// The socket that takes the place of `fd` when the program listens; `None` where the
/// program listens on one address of its own, or vsock cannot have that port.
pub fn listen(fd: i32, backlog: i32, settings: Settings) -> Option<Owned> {
    let family = stream_family(fd)?;
    let own = sys::own_address(fd).ok()?;
    let Meaning::Wildcard { port } = address::meaning(own.as_bytes(), false)? else {
        return None;
    };
    let form = match family {
        address::INET if settings.argo => Form::Argo,
        address::INET => Form::V4,
        _ => Form::V6,
    };
    let new = replacement(fd, form).ok()?;
    bind_port(new.get(), address::ANY_CID, u32::from(port)).ok()?;
    copy_flags(fd, new.get()).ok()?;
    sys::listen(new.get(), backlog).ok()?;
    Some(new)
}

/// Whether whoever came in may stay.
pub fn may_enter(peer: &VsockAddress, settings: Settings) -> bool {
    !settings.host_only || peer.cid == address::HOST_CID
}

/// How a replaced socket's own or other address is written; `own` is this guest's CID.
pub fn name(form: Form, at: &VsockAddress, own: Option<u32>) -> Written {
    let cid = match (at.cid, own) {
        // This guest over vsock_loopback, which has a CID of its own.
        (LOCAL_CID, Some(own)) => own,
        (cid, _) => cid,
    };
    let port = if at.port == sys::ANY_PORT { 0 } else { at.port };
    address::written(form, cid, port)
}

/// What an option of a replaced socket says, where vsock's own answer will not do.
pub fn option(fd: i32, form: Form, level: i32, name: i32) -> Option<Value> {
    const SO_ACCEPTCONN: i32 = 30;
    match (level, name) {
        (SOCKET, SO_DOMAIN) => Some(Value::Number(i32::from(form.family()))),
        (SOCKET, SO_PROTOCOL) => Some(Value::Number(options::TCP)),
        (SOCKET, SO_PRIORITY) => Some(Value::Number(0)),
        (SOCKET, SO_ERROR) => {
            let errno = take_error(fd).err().map_or(0, |errno| errno.0);
            Some(Value::Number(errno))
        }
        _ => {
            let listening = sys::number_option(fd, SOCKET, SO_ACCEPTCONN);
            options::value(level, name, listening == Ok(1))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::fd::AsRawFd;

    const HOST: &[u8] = &[2, 0, 0, 80, 240, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];

    #[test]
    fn only_stream_sockets_of_the_family_are_replaced() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let settings = Settings::default();
        assert!(wants_form(listener.as_raw_fd(), Form::V4));
        assert!(!wants_form(listener.as_raw_fd(), Form::V6));
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!wants_form(udp.as_raw_fd(), Form::V4));
        assert!(bind(udp.as_raw_fd(), HOST, settings).is_none());
        let six = sys::socket(address::INET6, STREAM).unwrap();
        assert!(!wants_form(six.get(), Form::V4));
        assert!(wants_form(six.get(), Form::Mapped));
        // A listener on one address stays what it is.
        assert!(listen(listener.as_raw_fd(), 1, settings).is_none());
        assert!(form_of(listener.as_raw_fd()).is_none());
    }

    #[test]
    fn timeouts_are_milliseconds() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(connect_timeout_ms(stream.as_raw_fd()), -1);
        let second = std::time::Duration::from_secs(1);
        stream.set_write_timeout(Some(second)).unwrap();
        assert!((1000..1020).contains(&connect_timeout_ms(stream.as_raw_fd())));
    }

    #[test]
    fn words_for_errors_are_those_of_tcp() {
        assert_eq!(connect_errno(Errno::ECONNRESET), Errno::ECONNREFUSED);
        assert_eq!(connect_errno(Errno::ENODEV), Errno::ENETUNREACH);
        assert_eq!(connect_errno(Errno::ETIMEDOUT), Errno::ETIMEDOUT);
    }

    #[test]
    fn the_host_alone_may_be_let_in() {
        let only = Settings {
            host_only: true,
            ..Settings::default()
        };
        for (cid, enters) in [(2, true), (1024, false), (LOCAL_CID, false)] {
            assert_eq!(may_enter(&VsockAddress::local(cid, 1), only), enters);
            assert!(may_enter(&VsockAddress::local(cid, 1), Settings::default()));
        }
    }

    #[test]
    fn this_guest_over_loopback_has_its_name() {
        let local = VsockAddress::local(LOCAL_CID, 80);
        assert_eq!(
            name(Form::V4, &local, Some(1024)),
            address::written(Form::V4, 1024, 80)
        );
        let nothing = VsockAddress::local(address::ANY_CID, sys::ANY_PORT);
        assert_eq!(
            name(Form::V4, &nothing, Some(1024)).as_bytes()[..8],
            [2, 0, 0, 0, 0, 0, 0, 0]
        );
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The functions `argo_*` of `include/inn_rings.h`: datagram sockets as libargo has
//! them. A socket is a connection, and at most one ring with its port.

use core::ffi::{c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};

use inn_ringwire::abi::{Address, DOMID_ANY, HEADER, MessageHeader, RegisterRing, slots};
use inn_ringwire::{Piece, Request, WAKE, What};

use crate::Client;
use crate::c_calls::{self, at_home, failed, out_of_home, size, status};
use crate::c_types::CAddress;
use crate::kernel::{Area, Error};

const SOCK_DGRAM: c_int = 2;
const MSG_DONTWAIT: c_int = 0x40;
/// What libargo's driver marks datagrams with, "Dgrm".
const DATAGRAM: u32 = 0x6447_724D;
/// Its ring: 32 pages without heads.
const RING_BYTES: u32 = 32 * 4096 - 80;
/// The most sockets of a program.
const MOST: usize = 1024;

/// By no order; a socket is found by its descriptor.
static SOCKETS: [AtomicPtr<Socket>; MOST] = [const { AtomicPtr::new(ptr::null_mut()) }; MOST];

struct Socket {
    client: Client,
    /// Its port, and whose messages its ring takes.
    bound: Option<(u32, u16)>,
    /// Messages that left the ring: what of them is not read yet.
    taken: Area,
    unread: core::ops::Range<usize>,
    home: Area,
}

/// The socket with this descriptor.
fn find(fd: c_int) -> Result<&'static mut Socket, Error> {
    for slot in &SOCKETS {
        let socket = slot.load(Ordering::Acquire);
        // SAFETY: in the table until it is closed; it belongs to one thread at a time.
        if let Some(socket) = unsafe { socket.as_mut() } {
            if socket.client.watch() == fd {
                return Ok(socket);
            }
        }
    }
    Err(Error::BADF)
}

/// Makes a socket of a connection.
fn keep(client: Client) -> Result<c_int, Error> {
    let (fd, taken) = (client.watch(), Area::new(RING_BYTES as usize)?);
    let socket = at_home(|home| Socket {
        client,
        bound: None,
        taken,
        unread: 0..0,
        home,
    })?;
    for slot in &SOCKETS {
        let order = Ordering::AcqRel;
        if (slot.compare_exchange(ptr::null_mut(), socket, order, Ordering::Relaxed)).is_ok() {
            return Ok(fd);
        }
    }
    // SAFETY: made above, known to nobody.
    drop_socket(unsafe { out_of_home(socket) });
    Err(Error::MFILE)
}

/// Its memory goes last.
fn drop_socket(socket: Socket) {
    let Socket { home, .. } = socket;
    drop(home);
}

impl Socket {
    fn bind(&mut self, port: u32, partner: u16) -> Result<(), Error> {
        if self.bound.is_some() {
            return Err(Error::INVAL);
        }
        let port = c_calls::bind(&mut self.client, port)?;
        let call = RegisterRing::new(port, partner, RING_BYTES);
        if let Err(error) = self.client.call(&Request::Register(call), &mut []) {
            self.client.call(&Request::Unbind(port), &mut [])?;
            return Err(error);
        }
        self.bound = Some((port, partner));
        Ok(())
    }

    /// Binds for a datagram to this domain: where no ring for all is allowed, for its own.
    fn bind_for(&mut self, domain: u16) -> Result<(), Error> {
        match self.bind(0, DOMID_ANY) {
            Err(Error::PERM) => self.bind(0, domain),
            other => other,
        }
    }

    fn send(&mut self, bytes: &[u8], to: Address, wait: bool) -> Result<usize, Error> {
        if self.bound.is_none() {
            self.bind_for(to.domain)?;
        }
        let (port, _) = self.bound.ok_or(Error::INVAL)?;
        let both = [Address::new(self.client.domain(), port), to];
        loop {
            match (self.client).sendv(both, DATAGRAM, &[Piece::Bytes(bytes)]) {
                Err(Error::AGAIN) if wait => self.wait(&|what, _, owner, at| {
                    what != What::Arrival && (owner, at) == (to.domain, to.port)
                })?,
                other => return other.map(|sent| sent as usize),
            }
        }
    }

    /// Waits for such an event; others are forgotten, as the calls look for themselves.
    fn wait(&mut self, wanted: &dyn Fn(What, u16, u16, u32) -> bool) -> Result<(), Error> {
        loop {
            match self.client.event(-1)? {
                Some(Ok(one)) if !wanted(one.what, one.partner, one.owner, one.port) => {}
                Some(_) => return Ok(()),
                None => {}
            }
        }
    }

    /// The next datagram: its bytes in `taken`, and its sender.
    fn receive(&mut self, wait: bool) -> Result<(core::ops::Range<usize>, Address), Error> {
        let (port, partner) = self.bound.ok_or(Error::INVAL)?;
        loop {
            while let Some((header, data)) = self.next_taken()? {
                if header.message_type == DATAGRAM {
                    self.client.keep_readable(!self.unread.is_empty());
                    return Ok((data, header.source));
                }
            }
            if !wait {
                // What is told of messages that are read now is not to wake a poll again.
                while self.client.event(0)?.is_some() {}
            }
            let room = self.taken.bytes_mut();
            let came = c_calls::receive(&mut self.client, (port, partner), room, WAKE)?;
            self.unread = 0..came;
            if came == 0 {
                if !wait {
                    return Err(Error::AGAIN);
                }
                self.wait(&|what, _, _, at| what != What::Space && at == port)?;
            }
        }
    }

    /// The first message that was taken and not read; the bytes of its data.
    fn next_taken(&mut self) -> Result<Option<(MessageHeader, core::ops::Range<usize>)>, Error> {
        if self.unread.is_empty() {
            return Ok(None);
        }
        let unread = self.taken.bytes().get(self.unread.clone());
        let header = (unread.and_then(|bytes| bytes.first_chunk())).ok_or(Error::PROTO)?;
        let header = MessageHeader::decode(header).map_err(|_| Error::PROTO)?;
        let start = self.unread.start + HEADER as usize;
        let end = start + header.payload() as usize;
        if end > self.unread.end {
            return Err(Error::PROTO);
        }
        let next = start + slots(header.payload()) as usize;
        self.unread.start = next.min(self.unread.end);
        Ok(Some((header, start..end)))
    }
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub extern "C" fn argo_socket(socket_type: c_int) -> c_int {
    if socket_type != SOCK_DGRAM {
        return failed(Error::INVAL);
    }
    // SAFETY: null is no path.
    let opened = unsafe { c_calls::open(ptr::null()) };
    status(opened.and_then(keep), |fd| fd)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn argo_socket_at(path: *const c_char) -> c_int {
    // SAFETY: the caller's word.
    let opened = unsafe { c_calls::open(path) };
    status(opened.and_then(keep), |fd| fd)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub extern "C" fn argo_close(fd: c_int) -> c_int {
    let socket: *mut Socket = match find(fd) {
        Ok(socket) => socket,
        Err(error) => return failed(error),
    };
    for slot in &SOCKETS {
        let order = Ordering::AcqRel;
        if (slot.compare_exchange(socket, ptr::null_mut(), order, Ordering::Relaxed)).is_ok() {
            // SAFETY: out of the table now, and the caller is done with it.
            drop_socket(unsafe { out_of_home(socket) });
            return 0;
        }
    }
    failed(Error::BADF)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn argo_bind(fd: c_int, address: *const CAddress, partner: c_int) -> c_int {
    // SAFETY: the caller's word.
    let port = unsafe { &*address }.port;
    let bound = find(fd).and_then(|socket| {
        let partner = u16::try_from(partner).map_err(|_| Error::INVAL)?;
        socket.bind(port, partner)
    });
    status(bound, |()| 0)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn argo_getsockname(
    fd: c_int,
    address: *mut CAddress,
    partner: *mut c_int,
) -> c_int {
    status(find(fd), |socket| {
        let (port, whose) = socket.bound.unwrap_or((0, DOMID_ANY));
        // SAFETY: the caller's word; either may be null.
        unsafe {
            if let Some(address) = address.as_mut() {
                *address = Address::new(socket.client.domain(), port).into();
            }
            if let Some(partner) = partner.as_mut() {
                *partner = c_int::from(whose);
            }
        }
        0
    })
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn argo_sendto(
    fd: c_int,
    buffer: *const c_void,
    len: usize,
    flags: c_int,
    to: *const CAddress,
) -> isize {
    // SAFETY: the caller's word.
    let (bytes, to) = unsafe { (c_calls::bytes(buffer.cast(), len), *to) };
    let wait = flags & MSG_DONTWAIT == 0;
    size(find(fd).and_then(|socket| socket.send(bytes, to.into(), wait)))
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn argo_recvfrom(
    fd: c_int,
    buffer: *mut c_void,
    len: usize,
    flags: c_int,
    from: *mut CAddress,
) -> isize {
    let wait = flags & MSG_DONTWAIT == 0;
    let received = find(fd).and_then(|socket| {
        let (range, sender) = socket.receive(wait)?;
        let data = socket.taken.bytes().get(range).unwrap_or(&[]);
        let count = data.len().min(len);
        // SAFETY: the caller's word; `from` may be null.
        unsafe {
            let room = c_calls::room(buffer, count);
            room.copy_from_slice(data.get(..count).unwrap_or(&[]));
            if let Some(from) = from.as_mut() {
                *from = sender.into();
            }
        }
        Ok(count)
    });
    size(received)
}

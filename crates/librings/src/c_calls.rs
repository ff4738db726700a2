// SPDX-License-Identifier: Apache-2.0
//! The functions `inn_rings_*` of `include/inn_rings.h`, which says what they do.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;

use inn_ringwire::abi::{DOMID_ANY, RegisterRing, RingData, UnregisterRing, pages};
use inn_ringwire::{Notice, Piece, Receive, Request, Sendv, WAKE};

use crate::c_types::{
    CEntries, CEntry, CEvent, CMessage, CPiece, CRing, CSendAddress, CUnregister,
};
use crate::events::Lost;
use crate::kernel::{Area, Error};
use crate::{Client, Place};

unsafe extern "C" {
    // glibc's and musl's, of every version.
    fn __errno_location() -> *mut c_int;
}

/// Sets errno; what a C function returns then.
pub(crate) fn failed(error: Error) -> c_int {
    // SAFETY: it points to this thread's errno, for as long as the thread lives.
    unsafe { *__errno_location() = error.0 };
    -1
}

/// A result as C has it.
pub(crate) fn status<T>(result: Result<T, Error>, number: impl FnOnce(T) -> c_int) -> c_int {
    match result {
        Ok(value) => number(value),
        Err(error) => failed(error),
    }
}

/// The same, where there may be more of it.
pub(crate) fn size(result: Result<usize, Error>) -> isize {
    match result {
        Ok(bytes) => bytes as isize,
        Err(error) => failed(error) as isize,
    }
}

/// `struct inn_rings`
pub struct CRings {
    client: Client,
    /// The memory that this value lies in.
    home: Area,
}

/// Puts a value into memory of its own.
pub(crate) fn at_home<T>(make: impl FnOnce(Area) -> T) -> Result<*mut T, Error> {
    let mut home = Area::new(size_of::<T>())?;
    let place: *mut T = home.bytes_mut().as_mut_ptr().cast();
    let value = make(home);
    // SAFETY: whole pages, large enough, aligned, owned by the value itself.
    unsafe { place.write(value) };
    Ok(place)
}

/// Takes it out again, before its memory goes.
///
/// # Safety
/// `place` came from [`at_home`], and nobody else uses it.
pub(crate) unsafe fn out_of_home<T>(place: *mut T) -> T {
    // SAFETY: initialised by `at_home`; the memory goes with the value.
    unsafe { place.read() }
}

/// A path of C; null: this is a guest.
///
/// # Safety
/// It ends with a zero, or is null.
pub(crate) unsafe fn open(path: *const c_char) -> Result<Client, Error> {
    if path.is_null() {
        return Client::open(Place::Host);
    }
    // SAFETY: the caller's word.
    let path = unsafe { CStr::from_ptr(path) };
    Client::open(Place::Socket(path.to_bytes()))
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_open(path: *const c_char) -> *mut CRings {
    // SAFETY: the caller's word.
    let opened = unsafe { open(path) };
    match opened.and_then(|client| at_home(|home| CRings { client, home })) {
        Ok(rings) => rings,
        Err(error) => {
            failed(error);
            ptr::null_mut()
        }
    }
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_close(rings: *mut CRings) {
    if !rings.is_null() {
        // SAFETY: of `inn_rings_open`, and the caller is done with it.
        let CRings { client, home } = unsafe { out_of_home(rings) };
        drop(client);
        drop(home);
    }
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_domain(rings: *const CRings) -> c_int {
    // SAFETY: of `inn_rings_open`.
    c_int::from(unsafe { &*rings }.client.domain())
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_fd(rings: *const CRings) -> c_int {
    // SAFETY: of `inn_rings_open`.
    unsafe { &*rings }.client.watch()
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_bind(rings: *mut CRings, port: *mut u32) -> c_int {
    // SAFETY: of `inn_rings_open`, and the caller's word.
    let (client, port) = unsafe { (&mut (*rings).client, &mut *port) };
    status(bind(client, *port), |bound| {
        *port = bound;
        0
    })
}

/// Binds a port, 0 for any, and returns it.
pub(crate) fn bind(client: &mut Client, port: u32) -> Result<u32, Error> {
    let mut bound = [0; 4];
    client.call(&Request::Bind(port), &mut bound)?;
    Ok(u32::from_le_bytes(bound))
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_unbind(rings: *mut CRings, port: u32) -> c_int {
    // SAFETY: of `inn_rings_open`.
    let client = unsafe { &mut (*rings).client };
    status(client.call(&Request::Unbind(port), &mut []), |_| 0)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_register_ring(
    rings: *mut CRings,
    ring: *const CRing,
    page_count: u32,
    flags: u32,
) -> c_int {
    // SAFETY: of `inn_rings_open`, and the caller's word.
    let (client, ring) = unsafe { (&mut (*rings).client, &*ring) };
    let call = RegisterRing {
        port: ring.port,
        partner: ring.partner,
        pad: ring.pad,
        len: ring.len,
        pages: if page_count == 0 {
            pages(ring.len)
        } else {
            page_count
        },
        flags,
    };
    status(client.call(&Request::Register(call), &mut []), |_| 0)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_unregister_ring(
    rings: *mut CRings,
    ring: *const CUnregister,
) -> c_int {
    // SAFETY: of `inn_rings_open`, and the caller's word.
    let (client, ring) = unsafe { (&mut (*rings).client, &*ring) };
    let call = UnregisterRing {
        port: ring.port,
        partner: ring.partner,
        pad: ring.pad,
    };
    status(client.call(&Request::Unregister(call), &mut []), |_| 0)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_sendv(
    rings: *mut CRings,
    address: *const CSendAddress,
    pieces: *const CPiece,
    count: u32,
    message_type: u32,
) -> isize {
    // The board refuses more than 8; so does a reader of the caller's array.
    if count > 8 {
        return size(Err(Error::INVAL));
    }
    // SAFETY: of `inn_rings_open`, and the caller's word.
    let (client, address) = unsafe { (&mut (*rings).client, &*address) };
    let mut gathered = [Piece::Bytes(&[]); 8];
    for (index, piece) in gathered.iter_mut().take(count as usize).enumerate() {
        // SAFETY: the caller's word: `count` entries, each of `len` bytes.
        *piece = Piece::Bytes(unsafe {
            let CPiece { start, len } = pieces.add(index).read();
            bytes(start, len)
        });
    }
    let gathered = gathered.get(..count as usize).unwrap_or(&[]);
    let both = [address.source.into(), address.destination.into()];
    size(
        client
            .sendv(both, message_type, gathered)
            .map(|sent| sent as usize),
    )
}

/// Bytes of the caller; where there are none, it may have any address.
///
/// # Safety
/// There are `len` bytes at `start`, and they stay.
pub(crate) unsafe fn bytes<'a>(start: *const u8, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller's word.
    unsafe { core::slice::from_raw_parts(start, len) }
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_send_many(
    rings: *mut CRings,
    messages: *mut CMessage,
    count: usize,
) -> c_int {
    if count == 0 {
        return 0;
    }
    // SAFETY: of `inn_rings_open`, and the caller's word.
    let (client, messages) = unsafe {
        let messages = core::slice::from_raw_parts_mut(messages, count);
        (&mut (*rings).client, messages)
    };
    if messages
        .iter()
        .any(|message| message.len > inn_ringwire::MAX_PAYLOAD)
    {
        return failed(Error::MSGSIZE);
    }
    let cells = core::cell::Cell::from_mut(messages).as_slice_of_cells();
    let mut next = cells.iter();
    let done = client.exchange(
        &mut |output| {
            let Some(cell) = next.next() else {
                return false;
            };
            // SAFETY: the caller's memory, which nothing changes meanwhile but `result`.
            let (address, message_type, data) = unsafe {
                let message = cell.as_ptr();
                let data = bytes((*message).data, (*message).len as usize);
                ((*message).address, (*message).message_type, data)
            };
            let tag = output.next_tag();
            let both = [address.source.into(), address.destination.into()];
            Sendv::encode(output, tag, both, message_type, &[Piece::Bytes(data)]);
            true
        },
        &mut |index, result, _| {
            if let Some(cell) = cells.get(index) {
                // SAFETY: as above.
                unsafe { (*cell.as_ptr()).result = result };
            }
        },
    );
    status(done, |()| 0)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_notify(rings: *mut CRings, data: *mut CEntries) -> c_int {
    const MOST: usize = inn_ringwire::abi::MAX_ENTRIES;
    // SAFETY: of `inn_rings_open`.
    let client = unsafe { &mut (*rings).client };
    if data.is_null() {
        return status(client.notify(&mut []), |()| 0);
    }
    // SAFETY: the caller's word: the head, and as many entries behind it as it says.
    let entries = unsafe {
        let count = (*data).count as usize;
        if count > MOST {
            return failed(Error::INVAL);
        }
        core::slice::from_raw_parts_mut(data.add(1).cast::<CEntry>(), count)
    };
    let mut asked = [RingData::default(); MOST];
    let asked = asked.get_mut(..entries.len()).unwrap_or(&mut []);
    for (one, entry) in asked.iter_mut().zip(entries.iter()) {
        *one = RingData::new(entry.ring.into(), entry.space_required);
    }
    let answered = client.notify(asked);
    for (one, entry) in asked.iter().zip(entries.iter_mut()) {
        (entry.flags, entry.pad) = (one.flags, 0);
        entry.max_message_size = one.max_message_size;
    }
    status(answered, |()| 0)
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_receive(
    rings: *mut CRings,
    port: u32,
    partner: u16,
    buffer: *mut c_void,
    len: usize,
    flags: u32,
) -> isize {
    // SAFETY: of `inn_rings_open`, and the caller's word.
    let (client, room) = unsafe { (&mut (*rings).client, room(buffer, len)) };
    size(receive(client, (port, partner), room, flags))
}

/// Takes whole messages into `room`; bytes of them.
pub(crate) fn receive(
    client: &mut Client,
    (port, partner): (u32, u16),
    room: &mut [u8],
    flags: u32,
) -> Result<usize, Error> {
    let request = Request::Receive(Receive {
        port,
        partner,
        pad: 0,
        max_bytes: u32::try_from(room.len()).unwrap_or(u32::MAX),
        flags,
    });
    client.call(&request, room).map(|(_, len)| len)
}

/// Memory of the caller to write to; where there is none, it may have any address.
///
/// # Safety
/// There are `len` bytes at `start`, for this call alone.
pub(crate) unsafe fn room<'a>(start: *mut c_void, len: usize) -> &'a mut [u8] {
    if len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's word.
    unsafe { core::slice::from_raw_parts_mut(start.cast(), len) }
}

/// # Safety
/// As `inn_rings.h` says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn inn_rings_next_event(
    rings: *mut CRings,
    event: *mut CEvent,
    timeout_ms: c_int,
) -> c_int {
    // SAFETY: of `inn_rings_open`, and the caller's word.
    let (client, target) = unsafe { (&mut (*rings).client, &mut *event) };
    status(client.event(timeout_ms), |found| {
        let Some(one) = found else { return 0 };
        *target = match one {
            Ok(Notice {
                port,
                partner,
                owner,
                what,
            }) => CEvent {
                port,
                partner,
                owner,
                what: what as u32,
            },
            Err(Lost) => CEvent {
                port: 0,
                partner: DOMID_ANY,
                owner: 0,
                what: 0,
            },
        };
        1
    })
}

const _: () = assert!(WAKE == 1);

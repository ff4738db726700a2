// SPDX-License-Identifier: Apache-2.0
//! Descriptor chains as lists of host memory, without copying.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use virtio_queue::DescriptorChain;
use vm_memory::{GuestMemory, GuestMemoryMmap, Permissions, VolatileSlice};

/// Guest memory as QEMU shares it: mapped files, no dirty log.
pub type Memory = GuestMemoryMmap<()>;

/// Most pieces a chain may consist of. Linux needs at most 2 + `MAX_SKB_FRAGS`
/// (net/vmw_vsock/virtio_transport.c); a hostile indirect table could hold
/// 65535, each costing us a lookup.
const MAX_PIECES: usize = 64;

/// The memory of one descriptor chain, bounds-checked against guest memory.
///
/// The guest may change the bytes at any moment; the *extent* is ours.
#[derive(Debug)]
pub struct GuestBuf<'m> {
    pieces: Vec<VolatileSlice<'m, ()>>,
    len: usize,
}

impl<'m> GuestBuf<'m> {
    /// Collects a chain the device may read from (TX).
    #[must_use]
    pub fn readable(memory: &'m Memory, chain: DescriptorChain<&'m Memory>) -> Option<Self> {
        Self::collect(memory, chain, Permissions::Read)
    }

    /// Collects a chain the device may write to (RX).
    #[must_use]
    pub fn writable(memory: &'m Memory, chain: DescriptorChain<&'m Memory>) -> Option<Self> {
        Self::collect(memory, chain, Permissions::Write)
    }

    fn collect(
        memory: &'m Memory,
        chain: DescriptorChain<&'m Memory>,
        access: Permissions,
    ) -> Option<Self> {
        let mut buf = Self {
            pieces: Vec::with_capacity(4),
            len: 0,
        };
        for descriptor in chain {
            if descriptor.is_write_only() != (access == Permissions::Write) {
                return None;
            }
            let slices = memory
                .get_slices(descriptor.addr(), descriptor.len() as usize, access)
                .ok()?;
            for slice in slices {
                let slice = slice.ok()?;
                if buf.pieces.len() == MAX_PIECES {
                    return None;
                }
                buf.len = buf.len.checked_add(slice.len())?;
                buf.pieces.push(slice);
            }
        }
        Some(buf)
    }

    /// Bytes in the chain.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Copies the first bytes out; `None` if the chain is shorter.
    #[must_use]
    pub fn head<const N: usize>(&self) -> Option<[u8; N]> {
        let mut bytes = [0; N];
        let mut filled = 0;
        for piece in self.range(0, N) {
            filled += piece.copy_to(&mut bytes[filled..]);
        }
        (filled == N).then_some(bytes)
    }

    /// Copies `bytes` in at `offset`; returns how many fitted.
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> usize {
        let mut written = 0;
        for piece in self.range(offset, bytes.len()) {
            let part = &bytes[written..written + piece.len()];
            piece.copy_from(part);
            written += part.len();
        }
        written
    }

    /// Appends `len` bytes from `offset` on to `out`.
    pub fn append_to(&self, offset: usize, len: usize, out: &mut std::collections::VecDeque<u8>) {
        let mut chunk = [0; 4096];
        for piece in self.range(offset, len) {
            let mut done = 0;
            while done < piece.len() {
                let Ok(rest) = piece.offset(done) else { return };
                let copied = rest.copy_to(&mut chunk[..]);
                out.extend(&chunk[..copied]);
                done += copied;
            }
        }
    }

    /// The parts of the chain inside `offset .. offset + len`.
    fn range(&self, offset: usize, len: usize) -> impl Iterator<Item = VolatileSlice<'m, ()>> + '_ {
        let mut skip = offset;
        let mut left = len;
        self.pieces.iter().filter_map(move |piece| {
            let skipped = skip.min(piece.len());
            let taken = left.min(piece.len() - skipped);
            skip -= skipped;
            left -= taken;
            // `subslice` checks the bounds again; they hold by construction.
            (taken > 0)
                .then(|| piece.subslice(skipped, taken).ok())
                .flatten()
        })
    }
}

/// Memory for one vectored system call.
#[derive(Debug, Default)]
pub struct IoVecs<'m> {
    vecs: Vec<libc::iovec>,
    memory: PhantomData<&'m ()>,
}

impl<'m> IoVecs<'m> {
    /// `IOV_MAX`: more pieces and the kernel answers EINVAL.
    const MAX: usize = 1024;

    /// Adds a part of a chain.
    pub fn push(&mut self, buf: &GuestBuf<'m>, offset: usize, len: usize) {
        for piece in buf.range(offset, len) {
            if self.vecs.len() == Self::MAX {
                return;
            }
            self.vecs.push(libc::iovec {
                iov_base: piece.ptr_guard_mut().as_ptr().cast(),
                iov_len: piece.len(),
            });
        }
    }

    /// Adds ordinary memory that will only be read.
    pub fn push_slice(&mut self, bytes: &'m [u8]) {
        if !bytes.is_empty() && self.vecs.len() < Self::MAX {
            self.vecs.push(libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            });
        }
    }

    /// Sends the memory's bytes; never blocks and never raises SIGPIPE.
    pub fn send(&self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: msghdr is plain data for which zeros mean "nothing".
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.vecs.as_ptr().cast_mut();
        message.msg_iovlen = self.vecs.len();
        loop {
            // SAFETY: the vectors point into memory borrowed for 'm; the
            // kernel only reads it, and copes with concurrent guest writes.
            let sent = unsafe {
                libc::sendmsg(
                    socket.as_raw_fd(),
                    &raw const message,
                    libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT,
                )
            };
            match usize::try_from(sent) {
                Ok(sent) => return Ok(sent),
                Err(_) => retry_if_interrupted()?,
            }
        }
    }
}

/// Guest memory that one vectored read may overwrite.
#[derive(Debug, Default)]
pub struct IoVecsMut<'m>(IoVecs<'m>);

impl<'m> IoVecsMut<'m> {
    /// Adds a part of a writable chain.
    pub fn push(&mut self, buf: &GuestBuf<'m>, offset: usize, len: usize) {
        self.0.push(buf, offset, len);
    }

    /// Receives into the memory; never blocks. `Ok(0)` is end of file.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: msghdr is plain data for which zeros mean "nothing".
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.0.vecs.as_mut_ptr();
        message.msg_iovlen = self.0.vecs.len();
        loop {
            // SAFETY: only `push` fills these vectors, with guest memory that
            // is mapped for 'm and to which no Rust reference exists.
            let received =
                unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
            match usize::try_from(received) {
                Ok(received) => return Ok(received),
                Err(_) => retry_if_interrupted()?,
            }
        }
    }
}

fn retry_if_interrupted() -> io::Result<()> {
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::Interrupted {
        Ok(())
    } else {
        Err(error)
    }
}

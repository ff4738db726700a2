// SPDX-License-Identifier: Apache-2.0
//! Takes fields off the front of a body.

use crate::Malformed;

pub(crate) struct Reader<'a> {
    kind: u8,
    left: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(kind: u8, body: &'a [u8]) -> Self {
        Self { kind, left: body }
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .left
            .split_first_chunk::<N>()
            .ok_or(Malformed::Body(self.kind))?;
        self.left = rest;
        Ok(*taken)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, Malformed> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, Malformed> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, Malformed> {
        self.array().map(u32::from_le_bytes)
    }

    /// `count` times `size` bytes.
    pub(crate) fn table(&mut self, count: u32, size: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(count)
            .ok()
            .and_then(|count| count.checked_mul(size))
            .filter(|len| *len <= self.left.len())
            .ok_or(Malformed::Body(self.kind))?;
        let (taken, rest) = self.left.split_at(len);
        self.left = rest;
        Ok(taken)
    }

    pub(crate) const fn rest(self) -> &'a [u8] {
        self.left
    }

    /// Nothing is left over.
    pub(crate) const fn end(self) -> Result<(), Malformed> {
        if self.left.is_empty() {
            Ok(())
        } else {
            Err(Malformed::Body(self.kind))
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Numbers and texts as 9P has them: little-endian, texts with their length
//! before them.

use nix::errno::Errno;

/// Longest name of a file (`NAME_MAX`).
const MAX_NAME: usize = 255;

/// Reads a message's body. What is too short or makes no sense is `EINVAL`.
#[derive(Debug, Clone)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The next bytes.
    pub fn bytes(&mut self, count: usize) -> nix::Result<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(Errno::EINVAL)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> nix::Result<[u8; N]> {
        self.bytes(N)?.try_into().map_err(|_| Errno::EINVAL)
    }

    /// `u8`
    pub fn u8(&mut self) -> nix::Result<u8> {
        self.array().map(u8::from_le_bytes)
    }

    /// `u16`
    pub fn u16(&mut self) -> nix::Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// `u32`
    pub fn u32(&mut self) -> nix::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// `u64`
    pub fn u64(&mut self) -> nix::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text; Linux's names are bytes, so nothing is said about their encoding.
    pub fn text(&mut self) -> nix::Result<&'a [u8]> {
        let count = self.u16()?;
        self.bytes(count.into())
    }

    /// A text that names an entry of a folder, and nothing else.
    pub fn name(&mut self) -> nix::Result<&'a [u8]> {
        let name = self.text()?;
        if name.len() > MAX_NAME {
            return Err(Errno::ENAMETOOLONG);
        }
        let is_way = matches!(name, b"" | b"." | b"..");
        if is_way || name.contains(&b'/') || name.contains(&0) {
            return Err(Errno::EINVAL);
        }
        Ok(name)
    }

    /// Bytes with a 32-bit length.
    pub fn data(&mut self) -> nix::Result<&'a [u8]> {
        let count = self.u32()?;
        self.bytes(usize::try_from(count).map_err(|_| Errno::EINVAL)?)
    }

    /// The end of the message must be here.
    pub fn end(&self) -> nix::Result<()> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Errno::EINVAL)
        }
    }
}

/// Writes a message's body.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// `u8`
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    /// `u16`
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// `u32`
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// `u64`
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_le_bytes())
    }

    /// A text. Nothing that the kernel gives us is longer than `u16` says.
    pub fn text(&mut self, text: &[u8]) -> &mut Self {
        let count = u16::try_from(text.len()).unwrap_or(u16::MAX);
        self.u16(count)
            .raw(text.get(..count.into()).unwrap_or_default())
    }

    /// Bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn there_and_back() {
        let mut writer = Writer::default();
        writer.u8(1).u16(2).u32(3).u64(4).text(b"a\xff");
        writer.u32(2).raw(b"xy");
        let bytes = writer.into_bytes();
        let mut reader = Reader::new(&bytes);
        assert_eq!((reader.u8(), reader.u16()), (Ok(1), Ok(2)));
        assert_eq!((reader.u32(), reader.u64()), (Ok(3), Ok(4)));
        assert_eq!(reader.clone().text(), Ok(&b"a\xff"[..]));
        assert_eq!(reader.name(), Ok(&b"a\xff"[..]));
        assert_eq!(reader.end(), Err(Errno::EINVAL));
        assert_eq!(reader.data(), Ok(&b"xy"[..]));
        assert_eq!(reader.end(), Ok(()));
        assert_eq!(reader.u8(), Err(Errno::EINVAL));
    }

    #[test]
    fn names_lead_nowhere_else() {
        for bad in ["", ".", "..", "a/b", "/", "../x", "a\0"] {
            let mut writer = Writer::default();
            writer.text(bad.as_bytes());
            let bytes = writer.into_bytes();
            assert_eq!(Reader::new(&bytes).name(), Err(Errno::EINVAL), "{bad:?}");
        }
        let mut writer = Writer::default();
        writer.text(&[b'x'; 256]);
        let bytes = writer.into_bytes();
        assert_eq!(Reader::new(&bytes).name(), Err(Errno::ENAMETOOLONG));
    }

    #[test]
    fn lengths_are_checked() {
        assert_eq!(Reader::new(b"\xff\xffab").text(), Err(Errno::EINVAL));
        assert_eq!(
            Reader::new(b"\xff\xff\xff\xffab").data(),
            Err(Errno::EINVAL)
        );
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Requests as values: what a packet asks for, before anything is done.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::attributes::Attributes;
use crate::packet::{Fields, Malformed};

/// Longest path: `PATH_MAX` of Linux.
pub const PATH_LIMIT: usize = 4096;

/// Flags of an open request.
pub mod flags {
    /// For reading.
    pub const READ: u32 = 1;
    /// For writing.
    pub const WRITE: u32 = 2;
    /// Every write goes to the end.
    pub const APPEND: u32 = 4;
    /// Make the file where it is missing.
    pub const CREATE: u32 = 8;
    /// Empty it first.
    pub const TRUNCATE: u32 = 16;
    /// With `CREATE`: it must be missing.
    pub const EXCLUSIVE: u32 = 32;
}

/// What a request is about: a path, or something that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A path; a link at its end is followed.
    Path(&'a Path),
    /// A path; a link at its end is itself meant.
    Link(&'a Path),
    /// What an open request gave.
    Handle(Handle),
}

/// The number of something open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Open a file.
    Open(&'a Path, u32, Attributes),
    /// Close what is open.
    Close(Handle),
    /// Read so many bytes from here.
    Read(Handle, u64, u32),
    /// Write these bytes here.
    Write(Handle, u64, &'a [u8]),
    /// Tell the attributes.
    Stat(Target<'a>),
    /// Change attributes.
    SetStat(Target<'a>, Attributes),
    /// Open a folder.
    OpenDir(&'a Path),
    /// The next names of a folder.
    ReadDir(Handle),
    /// Remove a file.
    Remove(&'a Path),
    /// Make a folder.
    MakeDir(&'a Path, Attributes),
    /// Remove an empty folder.
    RemoveDir(&'a Path),
    /// The absolute path, without links.
    RealPath(&'a Path),
    /// The same, with `~` for the home folder.
    ExpandPath(&'a Path),
    /// Rename; `true` may replace what is there.
    Rename(&'a Path, &'a Path, bool),
    /// Where a link leads.
    ReadLink(&'a Path),
    /// Make a link that leads to the first path at the second.
    Symlink(&'a Path, &'a Path),
    /// Another name for a file.
    HardLink(&'a Path, &'a Path),
    /// Bring a file to the disk.
    Sync(Handle),
    /// Room and numbers of a file system.
    StatVfs(Target<'a>),
    /// The bounds of this server.
    Limits,
    /// Nothing that is served.
    Unknown,
}

/// The packet's type where it is the first one of a connection.
pub const INIT: u8 = 1;

/// The request and its number.
pub fn parse(packet: &[u8]) -> Result<(u32, Request<'_>), (Option<u32>, Malformed)> {
    let mut fields = Fields::new(packet);
    let head = fields
        .u8()
        .and_then(|kind| fields.u32().map(|id| (kind, id)));
    let (kind, id) = head.map_err(|error| (None, error))?;
    request(kind, &mut fields)
        .map(|request| (id, request))
        .map_err(|error| (Some(id), error))
}

fn request<'a>(kind: u8, fields: &mut Fields<'a>) -> Result<Request<'a>, Malformed> {
    Ok(match kind {
        3 => Request::Open(path(fields)?, fields.u32()?, Attributes::read(fields)?),
        4 => Request::Close(handle(fields)?),
        5 => Request::Read(handle(fields)?, fields.u64()?, fields.u32()?),
        6 => Request::Write(handle(fields)?, fields.u64()?, fields.string()?),
        7 => Request::Stat(Target::Link(path(fields)?)),
        8 => Request::Stat(Target::Handle(handle(fields)?)),
        9 => Request::SetStat(Target::Path(path(fields)?), Attributes::read(fields)?),
        10 => Request::SetStat(Target::Handle(handle(fields)?), Attributes::read(fields)?),
        11 => Request::OpenDir(path(fields)?),
        12 => Request::ReadDir(handle(fields)?),
        13 => Request::Remove(path(fields)?),
        14 => Request::MakeDir(path(fields)?, Attributes::read(fields)?),
        15 => Request::RemoveDir(path(fields)?),
        16 => Request::RealPath(path(fields)?),
        17 => Request::Stat(Target::Path(path(fields)?)),
        18 => Request::Rename(path(fields)?, path(fields)?, false),
        19 => Request::ReadLink(path(fields)?),
        // OpenSSH sends the target first, against the draft, and everybody follows it.
        20 => Request::Symlink(path(fields)?, path(fields)?),
        200 => extended(fields)?,
        _ => Request::Unknown,
    })
}

/// Extensions of OpenSSH (its PROTOCOL, section 4); those of [`EXTENSIONS`].
fn extended<'a>(fields: &mut Fields<'a>) -> Result<Request<'a>, Malformed> {
    Ok(match fields.string()? {
        b"posix-rename@openssh.com" => Request::Rename(path(fields)?, path(fields)?, true),
        b"hardlink@openssh.com" => Request::HardLink(path(fields)?, path(fields)?),
        b"fsync@openssh.com" => Request::Sync(handle(fields)?),
        b"lsetstat@openssh.com" => {
            Request::SetStat(Target::Link(path(fields)?), Attributes::read(fields)?)
        }
        b"statvfs@openssh.com" => Request::StatVfs(Target::Path(path(fields)?)),
        b"fstatvfs@openssh.com" => Request::StatVfs(Target::Handle(handle(fields)?)),
        b"limits@openssh.com" => Request::Limits,
        b"expand-path@openssh.com" => Request::ExpandPath(path(fields)?),
        _ => Request::Unknown,
    })
}

/// Names and versions of the extensions that [`parse`] knows.
pub const EXTENSIONS: [(&str, &str); 8] = [
    ("posix-rename@openssh.com", "1"),
    ("statvfs@openssh.com", "2"),
    ("fstatvfs@openssh.com", "2"),
    ("hardlink@openssh.com", "1"),
    ("fsync@openssh.com", "1"),
    ("lsetstat@openssh.com", "1"),
    ("limits@openssh.com", "1"),
    ("expand-path@openssh.com", "1"),
];

/// A path of the guest; the empty one is where the server was started.
fn path<'a>(fields: &mut Fields<'a>) -> Result<&'a Path, Malformed> {
    let bytes = fields.string()?;
    if bytes.len() >= PATH_LIMIT || bytes.contains(&0) {
        return Err(Malformed);
    }
    let bytes = if bytes.is_empty() { b"." } else { bytes };
    Ok(Path::new(OsStr::from_bytes(bytes)))
}

fn handle(fields: &mut Fields<'_>) -> Result<Handle, Malformed> {
    let bytes = fields.string()?.try_into().map_err(|_| Malformed)?;
    Ok(Handle(u64::from_be_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::Builder;

    fn packet(kind: u8, strings: &[&[u8]]) -> Vec<u8> {
        let mut builder = Builder::new(kind);
        builder.u32(7);
        for string in strings {
            builder.string(string);
        }
        builder.finish().split_off(4)
    }

    #[test]
    fn paths_are_bounded() {
        let parsed = packet(16, &[b""]);
        assert_eq!(parse(&parsed), Ok((7, Request::RealPath(Path::new(".")))));
        let long = vec![b'a'; PATH_LIMIT];
        for bad in [&long[..], b"a\0b"] {
            assert_eq!(parse(&packet(16, &[bad])), Err((Some(7), Malformed)));
        }
    }

    #[test]
    fn every_cut_packet_is_refused_or_shorter() {
        let whole = packet(18, &[b"from", b"to"]);
        assert!(parse(&whole).is_ok());
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err(), "{end}");
        }
        assert_eq!(parse(b"\x03\0\0"), Err((None, Malformed)));
        assert_eq!(
            parse(&packet(4, &[b"not eight"])),
            Err((Some(7), Malformed))
        );
        assert_eq!(parse(&packet(99, &[])), Ok((7, Request::Unknown)));
        assert_eq!(
            parse(&packet(200, &[b"vendor@example.com"])),
            Ok((7, Request::Unknown))
        );
    }

    #[test]
    fn all_types_with_any_bytes() {
        // A generator of our own: no two runs differ, and no crate is needed.
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..50_000_u32 {
            let bytes: Vec<u8> = (0..round % 40)
                .map(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    // Small numbers make lengths that fit.
                    u8::try_from(state >> 60).unwrap() * u8::from(state & 3 == 0)
                })
                .collect();
            for kind in [3, 6, 9, 12, 14, 18, 20, 200] {
                let mut packet = vec![kind];
                packet.extend(&bytes);
                let _ = parse(&packet);
            }
        }
    }
}

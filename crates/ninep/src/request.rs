// SPDX-License-Identifier: Apache-2.0
//! Messages of a client as values. Reading one touches no file.

use nix::errno::Errno;

use crate::wire::Reader;

/// Most names in one walk (`P9_MAXWELEM`).
const MAX_WALK: u16 = 16;

/// A client's name for a file.
pub type Fid = u32;

/// What a client asks for. The field names are those of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Request<'a> {
    Version {
        msize: u32,
        version: &'a [u8],
    },
    Auth,
    Attach {
        fid: Fid,
        uid: u32,
    },
    Flush,
    Walk {
        fid: Fid,
        new: Fid,
        names: Vec<&'a [u8]>,
    },
    Read {
        fid: Fid,
        offset: u64,
        count: u32,
    },
    Write {
        fid: Fid,
        offset: u64,
        data: &'a [u8],
    },
    Clunk {
        fid: Fid,
    },
    Remove {
        fid: Fid,
    },
    Statfs {
        fid: Fid,
    },
    Open {
        fid: Fid,
        flags: u32,
    },
    Create {
        fid: Fid,
        name: &'a [u8],
        flags: u32,
        mode: u32,
        gid: u32,
    },
    Symlink {
        fid: Fid,
        name: &'a [u8],
        target: &'a [u8],
        gid: u32,
    },
    Readlink {
        fid: Fid,
    },
    Getattr {
        fid: Fid,
    },
    Setattr {
        fid: Fid,
        change: Change,
    },
    Readdir {
        fid: Fid,
        offset: u64,
        count: u32,
    },
    Fsync {
        fid: Fid,
        data_only: bool,
    },
    Lock {
        fid: Fid,
        lock: Lock<'a>,
    },
    Getlock {
        fid: Fid,
        lock: Lock<'a>,
    },
    Link {
        folder: Fid,
        fid: Fid,
        name: &'a [u8],
    },
    Mkdir {
        folder: Fid,
        name: &'a [u8],
        mode: u32,
        gid: u32,
    },
    Rename {
        old_folder: Fid,
        old_name: &'a [u8],
        new_folder: Fid,
        new_name: &'a [u8],
    },
    Unlink {
        folder: Fid,
        name: &'a [u8],
        flags: u32,
    },
    /// A message of the protocol that this server does not do.
    Unsupported,
}

/// What is to become of a file's attributes; `valid` says which.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Change {
    pub valid: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub accessed: (u64, u64),
    pub modified: (u64, u64),
}

/// A lock on a part of a file. A length of 0 means to the end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Lock<'a> {
    pub kind: u8,
    pub start: u64,
    pub length: u64,
    pub process: u32,
    pub client: &'a [u8],
}

/// Reads the body of a message of this type.
pub fn parse(kind: u8, body: &[u8]) -> nix::Result<Request<'_>> {
    let mut body = Reader::new(body);
    let request = match kind {
        8..=26 => parse_file(kind, &mut body)?,
        40..=76 => parse_folder(kind, &mut body)?,
        100..=122 => parse_basic(kind, &mut body)?,
        // Extended attributes (30, 32), and what is no request.
        _ => return Ok(Request::Unsupported),
    };
    if request != Request::Unsupported {
        body.end()?;
    }
    Ok(request)
}

fn parse_basic<'a>(kind: u8, body: &mut Reader<'a>) -> nix::Result<Request<'a>> {
    Ok(match kind {
        100 => Request::Version {
            msize: body.u32()?,
            version: body.text()?,
        },
        102 => {
            body.u32()?;
            body.text()?;
            body.text()?;
            body.u32()?;
            Request::Auth
        }
        104 => {
            let fid = body.u32()?;
            let _auth = body.u32()?;
            let _user_name = body.text()?;
            // There is one tree.
            let _tree = body.text()?;
            Request::Attach {
                fid,
                uid: body.u32()?,
            }
        }
        108 => {
            body.u16()?;
            Request::Flush
        }
        110 => {
            let (fid, new, count) = (body.u32()?, body.u32()?, body.u16()?);
            if count > MAX_WALK {
                return Err(Errno::EINVAL);
            }
            let names = (0..count)
                .map(|_| body.name())
                .collect::<nix::Result<_>>()?;
            Request::Walk { fid, new, names }
        }
        116 => Request::Read {
            fid: body.u32()?,
            offset: body.u64()?,
            count: body.u32()?,
        },
        118 => Request::Write {
            fid: body.u32()?,
            offset: body.u64()?,
            data: body.data()?,
        },
        120 => Request::Clunk { fid: body.u32()? },
        122 => Request::Remove { fid: body.u32()? },
        _ => Request::Unsupported,
    })
}

fn parse_file<'a>(kind: u8, body: &mut Reader<'a>) -> nix::Result<Request<'a>> {
    Ok(match kind {
        8 => Request::Statfs { fid: body.u32()? },
        12 => Request::Open {
            fid: body.u32()?,
            flags: body.u32()?,
        },
        14 => Request::Create {
            fid: body.u32()?,
            name: body.name()?,
            flags: body.u32()?,
            mode: body.u32()?,
            gid: body.u32()?,
        },
        16 => Request::Symlink {
            fid: body.u32()?,
            name: body.name()?,
            target: body.text()?,
            gid: body.u32()?,
        },
        22 => Request::Readlink { fid: body.u32()? },
        24 => {
            let fid = body.u32()?;
            let _mask = body.u64()?;
            Request::Getattr { fid }
        }
        26 => Request::Setattr {
            fid: body.u32()?,
            change: Change {
                valid: body.u32()?,
                mode: body.u32()?,
                uid: body.u32()?,
                gid: body.u32()?,
                size: body.u64()?,
                accessed: (body.u64()?, body.u64()?),
                modified: (body.u64()?, body.u64()?),
            },
        },
        // Tmknod (18): a guest makes no devices on its host. Trename (20) is
        // what clients did before Trenameat.
        _ => Request::Unsupported,
    })
}

fn parse_folder<'a>(kind: u8, body: &mut Reader<'a>) -> nix::Result<Request<'a>> {
    Ok(match kind {
        40 => Request::Readdir {
            fid: body.u32()?,
            offset: body.u64()?,
            count: body.u32()?,
        },
        50 => Request::Fsync {
            fid: body.u32()?,
            data_only: body.u32()? != 0,
        },
        52 => {
            let (fid, kind) = (body.u32()?, body.u8()?);
            let _flags = body.u32()?;
            Request::Lock {
                fid,
                lock: lock(kind, body)?,
            }
        }
        54 => {
            let (fid, kind) = (body.u32()?, body.u8()?);
            Request::Getlock {
                fid,
                lock: lock(kind, body)?,
            }
        }
        70 => Request::Link {
            folder: body.u32()?,
            fid: body.u32()?,
            name: body.name()?,
        },
        72 => Request::Mkdir {
            folder: body.u32()?,
            name: body.name()?,
            mode: body.u32()?,
            gid: body.u32()?,
        },
        74 => Request::Rename {
            old_folder: body.u32()?,
            old_name: body.name()?,
            new_folder: body.u32()?,
            new_name: body.name()?,
        },
        76 => Request::Unlink {
            folder: body.u32()?,
            name: body.name()?,
            flags: body.u32()?,
        },
        _ => Request::Unsupported,
    })
}

fn lock<'a>(kind: u8, body: &mut Reader<'a>) -> nix::Result<Lock<'a>> {
    Ok(Lock {
        kind,
        start: body.u64()?,
        length: body.u64()?,
        process: body.u32()?,
        client: body.text()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk() {
        let body = b"\x01\0\0\0\x02\0\0\0\x02\0\x01\0a\x02\0bc";
        let names = vec![&b"a"[..], &b"bc"[..]];
        let walk = Request::Walk {
            fid: 1,
            new: 2,
            names,
        };
        assert_eq!(parse(110, body), Ok(walk));
        let up = b"\x01\0\0\0\x02\0\0\0\x01\0\x02\0..";
        assert_eq!(parse(110, up), Err(Errno::EINVAL));
        let long = b"\x01\0\0\0\x02\0\0\0\x11\0";
        assert_eq!(parse(110, long), Err(Errno::EINVAL));
    }

    #[test]
    fn what_is_too_long_or_unknown() {
        assert_eq!(parse(120, b"\x01\0\0\0"), Ok(Request::Clunk { fid: 1 }));
        assert_eq!(parse(120, b"\x01\0\0\0x"), Err(Errno::EINVAL));
        assert_eq!(parse(120, b"\x01\0"), Err(Errno::EINVAL));
        for kind in [0, 7, 18, 20, 30, 32, 41, 77, 101, 255] {
            assert_eq!(parse(kind, b"anything"), Ok(Request::Unsupported), "{kind}");
        }
    }
}

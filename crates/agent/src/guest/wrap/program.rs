// SPDX-License-Identifier: Apache-2.0
//! Where a program is, and whether a preloaded library reaches its system calls.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a program is for a preloaded library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It calls a C library, which the loader looks up.
    Dynamic,
    /// It makes its system calls by itself: static, or of Go, or set-user-ID.
    OnItsOwn,
    /// Of another architecture or word size.
    Foreign,
}

/// Interpreters of interpreters, as many as the kernel follows.
const MOST_SCRIPTS: usize = 5;
/// No linker writes as many program headers.
const MOST_HEADERS: usize = 256;
/// Longer notes than Go's are not looked at.
const NOTE_BYTES: usize = 4096;

const PT_INTERP: u32 = 3;
const PT_NOTE: u32 = 4;
const EM_X86_64: u16 = 62;

/// The file of a command, as execvp(3) finds it.
pub fn find(command: &OsStr) -> io::Result<PathBuf> {
    if command.as_bytes().contains(&b'/') {
        return Ok(PathBuf::from(command));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path)
        .map(|folder| folder.join(command))
        .find(|file| is_program(file))
        .ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|info| info.is_file() && info.permissions().mode() & 0o111 != 0)
}

/// What a program is; a script is what its interpreter is.
pub fn kind(file: &Path) -> io::Result<Kind> {
    let mut file = file.to_owned();
    for _ in 0..MOST_SCRIPTS {
        let content = File::open(&file)?;
        let mut head = [0; 256];
        let count = content.read_at(&mut head, 0)?;
        let head = head.get(..count).unwrap_or_default();
        if let Some(script) = head.strip_prefix(b"#!") {
            file = interpreter(script).ok_or(io::ErrorKind::InvalidData)?;
            continue;
        }
        // The loader takes no libraries from the environment of such programs.
        if content.metadata()?.permissions().mode() & 0o6000 != 0 {
            return Ok(Kind::OnItsOwn);
        }
        return Ok(elf_kind(&content, head));
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn interpreter(script: &[u8]) -> Option<PathBuf> {
    let line = script.split(|byte| *byte == b'\n').next()?;
    let mut words = line.split(|byte| byte.is_ascii_whitespace());
    let word = words.find(|word| !word.is_empty())?;
    Some(PathBuf::from(OsStr::from_bytes(word)))
}

/// What is no ELF file at all has a shell as its interpreter, if any (binfmt_misc).
fn elf_kind(file: &File, head: &[u8]) -> Kind {
    let Some(elf) = Elf::read(head) else {
        return if head.starts_with(b"\x7fELF") {
            Kind::Foreign
        } else {
            Kind::Dynamic
        };
    };
    let headers = elf.headers(file);
    let is_dynamic = headers.iter().any(|header| header.kind == PT_INTERP);
    let is_go = headers
        .iter()
        .filter(|header| header.kind == PT_NOTE)
        .any(|header| header.has_go_note(file));
    if is_dynamic && !is_go {
        Kind::Dynamic
    } else {
        Kind::OnItsOwn
    }
}

/// The head of an ELF file for this machine.
struct Elf {
    headers_at: u64,
    header_size: usize,
    header_count: usize,
}

struct Header {
    kind: u32,
    offset: u64,
    size: u64,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.get(..N)?.try_into().ok()
}

impl Elf {
    fn read(head: &[u8]) -> Option<Self> {
        // 64 bits, little endian.
        if !head.starts_with(b"\x7fELF\x02\x01") {
            return None;
        }
        if u16::from_le_bytes(number(head, 18)?) != EM_X86_64 {
            return None;
        }
        Some(Self {
            headers_at: u64::from_le_bytes(number(head, 32)?),
            header_size: usize::from(u16::from_le_bytes(number(head, 54)?)),
            header_count: usize::from(u16::from_le_bytes(number(head, 56)?)),
        })
    }

    fn headers(&self, file: &File) -> Vec<Header> {
        let count = self.header_count.min(MOST_HEADERS);
        let size = self.header_size.clamp(56, 128);
        let mut bytes = vec![0; count * size];
        if file.read_exact_at(&mut bytes, self.headers_at).is_err() {
            return Vec::new();
        }
        bytes.chunks_exact(size).filter_map(Header::read).collect()
    }
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            kind: u32::from_le_bytes(number(bytes, 0)?),
            offset: u64::from_le_bytes(number(bytes, 8)?),
            size: u64::from_le_bytes(number(bytes, 32)?),
        })
    }

    /// Go's linker leaves a note of this name; such programs call the kernel
    /// themselves, also where they are linked with a C library.
    fn has_go_note(&self, file: &File) -> bool {
        let size = usize::try_from(self.size).unwrap_or(NOTE_BYTES);
        let mut bytes = vec![0; size.min(NOTE_BYTES)];
        let read = file.read_at(&mut bytes, self.offset);
        read.is_ok() && bytes.windows(4).step_by(4).any(|word| word == b"Go\0\0")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn elf(kinds: &[u32], machine: u16, note: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
        bytes.resize(64, 0);
        bytes[18..20].copy_from_slice(&machine.to_le_bytes());
        bytes[32] = 64;
        bytes[54] = 56;
        bytes[56] = kinds.len() as u8;
        let after = 64 + 56 * kinds.len() as u64;
        for kind in kinds {
            let mut header = vec![0; 56];
            header[..4].copy_from_slice(&kind.to_le_bytes());
            header[8..16].copy_from_slice(&after.to_le_bytes());
            header[32..40].copy_from_slice(&(note.len() as u64).to_le_bytes());
            bytes.extend(header);
        }
        [&bytes[..], note].concat()
    }

    fn kind_of(content: &[u8]) -> Kind {
        let folder = tempdir();
        let file = folder.join("program");
        fs::write(&file, content).unwrap();
        let kind = kind(&file).unwrap();
        fs::remove_dir_all(folder).unwrap();
        kind
    }

    fn tempdir() -> PathBuf {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("inn-wrap-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    }

    #[test]
    fn kinds_of_programs() {
        const GO: &[u8] = b"\x04\0\0\0\x04\0\0\0\x04\0\0\0Go\0\0abcd";
        const GNU: &[u8] = b"\x04\0\0\0\x04\0\0\0\x01\0\0\0GNU\0abcd";
        for (content, wanted) in [
            (elf(&[PT_INTERP, PT_NOTE], 62, GNU), Kind::Dynamic),
            (elf(&[PT_INTERP, PT_NOTE], 62, GO), Kind::OnItsOwn),
            (elf(&[PT_NOTE], 62, GNU), Kind::OnItsOwn),
            (elf(&[PT_INTERP], 183, GNU), Kind::Foreign),
            (b"\x7fELF\x01\x01".to_vec(), Kind::Foreign),
            (b"echo\n".to_vec(), Kind::Dynamic),
            // Cut short: no headers, so nothing to preload into.
            (elf(&[PT_INTERP], 62, b"")[..70].to_vec(), Kind::OnItsOwn),
        ] {
            assert_eq!(kind_of(&content), wanted);
        }
    }

    #[test]
    fn a_script_is_what_runs_it() {
        assert_eq!(kind_of(b"#! /bin/sh -e\n"), Kind::Dynamic);
        assert_eq!(interpreter(b" /a/b c\nd"), Some(PathBuf::from("/a/b")));
        assert_eq!(interpreter(b"  \n"), None);
    }

    #[test]
    fn commands_lie_in_path() {
        assert!(find(OsStr::new("sh")).unwrap().is_absolute());
        assert!(find(OsStr::new("no such program")).is_err());
        assert_eq!(find(OsStr::new("./x")).unwrap(), PathBuf::from("./x"));
    }
}

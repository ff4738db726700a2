// SPDX-License-Identifier: Apache-2.0
//! The server: one request after the other, in the order they came.

use std::collections::HashMap;
use std::fs::{self, File, ReadDir};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use nix::sys::statvfs::{fstatvfs, statvfs};

use crate::attributes::{Attributes, long_name};
use crate::files::{self, Subject};
use crate::packet::read_packet;
use crate::reply::{self, DATA_LIMIT, Names, Problem, Status};
use crate::request::{Handle, INIT, Request, Target, flags, parse};

/// Files and folders open at the same time.
pub const HANDLES_LIMIT: usize = 256;

enum Open {
    File { file: File, append: bool },
    Folder(ReadDir),
}

/// One client's open files.
#[derive(Default)]
pub struct Server {
    open: HashMap<Handle, Open>,
    last: u64,
    scratch: Vec<u8>,
}

/// Serves a client until its stream ends.
///
/// Replies are sent together while requests wait, which spares the peer's
/// reader a wake-up for each.
///
/// # Errors
/// The stream broke, a length was over the limit, or the first packet was none
/// that begins a connection.
pub fn serve(input: impl Read, output: impl Write) -> io::Result<()> {
    let mut input = BufReader::with_capacity(64 << 10, input);
    let mut output = BufWriter::with_capacity(64 << 10, output);
    let mut server = Server::default();
    let mut packet = Vec::new();
    if !read_packet(&mut input, &mut packet)? {
        return Ok(());
    }
    if packet.first() != Some(&INIT) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the client did not begin as SFTP does",
        ));
    }
    output.write_all(&reply::version())?;
    output.flush()?;
    while read_packet(&mut input, &mut packet)? {
        output.write_all(&server.answer(&packet))?;
        // A partly buffered request counts as none: its rest may wait for our reply.
        if !holds_packet(input.buffer()) {
            output.flush()?;
        }
    }
    output.flush()
}

fn holds_packet(buffer: &[u8]) -> bool {
    buffer
        .split_first_chunk::<4>()
        .is_some_and(|(length, rest)| {
            usize::try_from(u32::from_be_bytes(*length)).is_ok_and(|length| length <= rest.len())
        })
}

impl Server {
    /// The reply to one packet.
    pub fn answer(&mut self, packet: &[u8]) -> Vec<u8> {
        match parse(packet) {
            Ok((id, request)) => self
                .act(id, request)
                .unwrap_or_else(|problem| reply::status(id, problem.status, &problem.text)),
            Err((id, malformed)) => {
                reply::status(id.unwrap_or(0), Status::BadMessage, &malformed.to_string())
            }
        }
    }

    fn act(&mut self, id: u32, request: Request<'_>) -> Result<Vec<u8>, Problem> {
        match request {
            Request::Open(path, wanted, attributes) => {
                self.check_room()?;
                let file = files::open(path, wanted, &attributes)?;
                let append = wanted & flags::APPEND != 0;
                Ok(reply::handle(id, self.keep(Open::File { file, append })))
            }
            Request::OpenDir(path) => {
                self.check_room()?;
                let folder = fs::read_dir(path)?;
                Ok(reply::handle(id, self.keep(Open::Folder(folder))))
            }
            Request::Read(handle, offset, length) => self.read(id, handle, offset, length),
            Request::ReadDir(handle) => self.read_folder(id, handle),
            Request::Stat(target) => {
                let found = match target {
                    Target::Path(path) => files::look(path, true)?,
                    Target::Link(path) => files::look(path, false)?,
                    Target::Handle(handle) => self.file(handle)?.0.metadata()?,
                };
                Ok(reply::attributes(id, &Attributes::from(&found)))
            }
            Request::RealPath(path) => name(id, &files::real_path(path)?),
            Request::ExpandPath(path) => name(id, &files::real_path(&files::expand(path)?)?),
            Request::ReadLink(path) => name(id, &fs::read_link(path)?),
            Request::StatVfs(target) => {
                let found = match target {
                    Target::Path(path) | Target::Link(path) => statvfs(path)?,
                    Target::Handle(handle) => fstatvfs(self.file(handle)?.0)?,
                };
                Ok(reply::numbers(id, &files::room(&found)))
            }
            Request::Limits => Ok(reply::numbers(
                id,
                &[
                    crate::PACKET_LIMIT as u64,
                    DATA_LIMIT as u64,
                    DATA_LIMIT as u64,
                    HANDLES_LIMIT as u64,
                ],
            )),
            Request::Unknown => Err(Problem::new(
                Status::Unsupported,
                "this request is not served",
            )),
            other => {
                self.change(other)?;
                Ok(reply::status(id, Status::Ok, ""))
            }
        }
    }

    /// Requests that are answered by their success alone.
    fn change(&mut self, request: Request<'_>) -> Result<(), Problem> {
        match request {
            Request::Close(handle) => {
                self.open.remove(&handle).ok_or_else(unknown_handle)?;
            }
            Request::Write(handle, offset, bytes) => {
                let (file, append) = self.file(handle)?;
                if append {
                    (&*file).write_all(bytes)?;
                } else {
                    file.write_all_at(bytes, offset)?;
                }
            }
            Request::SetStat(target, attributes) => match target {
                Target::Path(path) => files::change(&Subject::Path(path), &attributes)?,
                Target::Link(path) => files::change(&Subject::Link(path), &attributes)?,
                Target::Handle(handle) => {
                    files::change(&Subject::File(self.file(handle)?.0), &attributes)?;
                }
            },
            Request::Remove(path) => fs::remove_file(path)?,
            Request::MakeDir(path, attributes) => files::make_folder(path, &attributes)?,
            Request::RemoveDir(path) => fs::remove_dir(path)?,
            Request::Rename(from, to, replace) => files::rename(from, to, replace)?,
            Request::Symlink(target, link) => std::os::unix::fs::symlink(target, link)?,
            Request::HardLink(from, to) => fs::hard_link(from, to)?,
            Request::Sync(handle) => self.file(handle)?.0.sync_all()?,
            _ => return Err(Problem::new(Status::Failure, "no such change")),
        }
        Ok(())
    }

    fn read(
        &mut self,
        id: u32,
        handle: Handle,
        offset: u64,
        length: u32,
    ) -> Result<Vec<u8>, Problem> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.resize(DATA_LIMIT, 0);
        let wanted = usize::try_from(length)
            .unwrap_or(DATA_LIMIT)
            .min(DATA_LIMIT);
        let room = scratch.get_mut(..wanted).unwrap_or_default();
        let result = self.file(handle).and_then(|(file, _)| {
            let count = fill(file, room, offset)?;
            if count == 0 && wanted > 0 {
                return Err(Problem::new(Status::Eof, "end of file"));
            }
            Ok(reply::data(id, room.get(..count).unwrap_or_default()))
        });
        self.scratch = scratch;
        result
    }

    fn read_folder(&mut self, id: u32, handle: Handle) -> Result<Vec<u8>, Problem> {
        let Some(Open::Folder(folder)) = self.open.get_mut(&handle) else {
            return Err(unknown_handle());
        };
        let mut names = Names::new(id);
        while !names.is_full() {
            let Some(entry) = folder.next() else { break };
            let entry = entry?;
            // What was removed since it was listed is left out.
            if let Ok(found) = entry.metadata() {
                let name = entry.file_name();
                let long = long_name(name.as_bytes(), &found);
                names.add(name.as_bytes(), &long, &Attributes::from(&found));
            }
        }
        if names.count() == 0 {
            return Err(Problem::new(Status::Eof, "no more names"));
        }
        Ok(names.finish())
    }

    fn file(&self, handle: Handle) -> Result<(&File, bool), Problem> {
        match self.open.get(&handle) {
            Some(Open::File { file, append }) => Ok((file, *append)),
            _ => Err(unknown_handle()),
        }
    }

    fn check_room(&self) -> Result<(), Problem> {
        if self.open.len() < HANDLES_LIMIT {
            return Ok(());
        }
        Err(Problem::new(Status::Failure, "too many open files"))
    }

    fn keep(&mut self, open: Open) -> Handle {
        // Numbers are never used twice, so a late request cannot hit another file.
        self.last += 1;
        let handle = Handle(self.last);
        self.open.insert(handle, open);
        handle
    }
}

/// As much as there is, also where the kernel gives less at a time.
fn fill(file: &File, room: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut count = 0;
    while let Some(rest) = room.get_mut(count..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset.saturating_add(count as u64)) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if count > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(count)
}

fn name(id: u32, path: &Path) -> Result<Vec<u8>, Problem> {
    let bytes = path.as_os_str().as_bytes();
    let mut names = Names::new(id);
    names.add(bytes, bytes, &Attributes::default());
    Ok(names.finish())
}

fn unknown_handle() -> Problem {
    Problem::new(Status::Failure, "no such open file or folder")
}

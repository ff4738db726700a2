// SPDX-License-Identifier: Apache-2.0
//! The guest's log on its way to the host (port 9999): kernel messages, and as
//! PID 1 also syslog. Begins when a host asks for it, so that a guest whose
//! log nobody keeps pays nothing.

mod queue;
mod records;

use std::fs::{File, Permissions};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::time::Duration;

use inn_wire::frame::{MESSAGE_LIMIT, encode};
use nix::errno::Errno;
use tokio::time::{sleep, timeout};

use crate::agent::Agent;
use crate::clock;
use crate::stream::Stream;
use crate::transport::Transport;
use queue::Queue;

/// Port the host listens on.
const PORT: u32 = 9999;

const SYSLOG: &str = "/dev/log";

/// Larger than any record of /dev/kmsg, which must be read as a whole.
const KERNEL_RECORD: usize = 8 << 10;
/// What is longer than this is cut off by recv.
const DATAGRAM: usize = 4 << 10;

/// The longest time a record waits for company.
const FLUSH: Duration = Duration::from_secs(1);
/// Between two batches, so that a flood is lost here and costs the host little.
const PACE: Duration = Duration::from_millis(50);
/// After a connection that was refused or broke.
const RETRY: Duration = Duration::from_secs(1);

/// Relays until the program ends, once somebody asked for it.
pub async fn run(transport: Transport, agent: Arc<Agent>) {
    agent.logs_wanted.notified().await;
    let queue = Arc::new(Queue::default());
    match open_kernel() {
        Ok(stream) => drop(tokio::spawn(read_kernel(stream, Arc::clone(&queue)))),
        Err(error) => agent.failures.report("kernel log", error),
    }
    if agent.is_init {
        match open_syslog() {
            Ok(stream) => drop(tokio::spawn(read_syslog(stream, Arc::clone(&queue)))),
            Err(error) => agent.failures.report("syslog", error),
        }
    }
    loop {
        if let Ok(stream) = transport.dial(PORT).await {
            // A broken connection was counted; the next one is a new keeper's.
            let _ = send(&stream, &queue).await;
        }
        sleep(RETRY).await;
    }
}

async fn send(stream: &Stream, queue: &Queue) -> io::Result<()> {
    loop {
        queue.filled().await;
        // The time being over is as good a reason to send.
        let _ = timeout(FLUSH, queue.full()).await;
        let batch = queue.take();
        let frame = encode(&batch, MESSAGE_LIMIT)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if let Err(error) = stream.write_all(&frame).await {
            queue.lose(batch.records.len() as u64 + batch.lost);
            return Err(error);
        }
        sleep(PACE).await;
    }
}

fn open_kernel() -> io::Result<Stream> {
    let mut file = File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/kmsg")?;
    // From now on: the console has what was before.
    file.seek(SeekFrom::End(0))?;
    Stream::new(OwnedFd::from(file))
}

async fn read_kernel(stream: Stream, queue: Arc<Queue>) {
    let mut buffer = vec![0; KERNEL_RECORD];
    let mut expected = None;
    loop {
        let count = match stream.read_some(&mut buffer).await {
            Ok(count @ 1..) => count,
            // Records were overwritten; the next number says how many.
            Err(error) if error.raw_os_error() == Some(Errno::EPIPE as i32) => continue,
            _ => return,
        };
        let bytes = buffer.get(..count).unwrap_or_default();
        if let Some((number, record)) = records::parse_kernel(bytes, clock::nanos(clock::wall())) {
            queue.lose(number.saturating_sub(expected.unwrap_or(number)));
            expected = Some(number.saturating_add(1));
            queue.push(record);
        }
    }
}

fn open_syslog() -> io::Result<Stream> {
    match std::fs::remove_file(SYSLOG) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = UnixDatagram::bind(SYSLOG)?;
    // Every user's programs log.
    std::fs::set_permissions(SYSLOG, Permissions::from_mode(0o666))?;
    Stream::new(OwnedFd::from(socket))
}

async fn read_syslog(stream: Stream, queue: Arc<Queue>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        match stream.read_some(&mut buffer).await {
            // A message of no bytes, not an end.
            Ok(0) => {}
            Ok(count) => {
                let bytes = buffer.get(..count).unwrap_or_default();
                queue.push(records::parse_user(bytes, clock::nanos(clock::wall())));
            }
            Err(_) => return,
        }
        // A flood must not keep the other tasks of this one thread waiting.
        tokio::task::yield_now().await;
    }
}

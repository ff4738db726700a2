// SPDX-License-Identifier: Apache-2.0
//! Messages over a stream: reading, writing, and the goodbye.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use inn_wire::frame::{DATA_LIMIT, FrameDecoder, FrameError, MESSAGE_LIMIT, SETUP_LIMIT, encode};
use inn_wire::vsh::{
    ConnectionStatus, ConnectionStatusMessage, DataMessage, HostMessage, StdioStream, host_message,
};
use prost::Message;
use tokio::time::timeout;

use crate::process::reaper::Exit;
use crate::stream::Stream;

/// Bytes asked of the kernel at once.
const READ_SIZE: usize = 16 << 10;

/// How long the peer may take to close after we said everything.
const GOODBYE: Duration = Duration::from_secs(2);

/// Why no message came.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The peer is gone.
    #[error("the connection ended")]
    Closed,
    /// The peer speaks something else.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

impl From<io::Error> for ReceiveError {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

/// The receiving side of a session.
pub struct Receiver {
    decoder: FrameDecoder,
    buffer: Vec<u8>,
}

impl Receiver {
    /// Expects the first message, which may be large.
    pub fn new() -> Self {
        Self {
            decoder: FrameDecoder::new(SETUP_LIMIT),
            buffer: vec![0; READ_SIZE],
        }
    }

    /// Expects ordinary messages from now on.
    pub fn after_setup(&mut self) {
        self.decoder.set_limit(MESSAGE_LIMIT);
    }

    /// The next message.
    pub async fn receive<M>(&mut self, stream: &Stream) -> Result<M, ReceiveError>
    where
        M: Message + Default,
    {
        loop {
            if let Some(message) = self.decoder.next_message()? {
                return Ok(message);
            }
            let count = stream.read_some(&mut self.buffer).await?;
            if count == 0 {
                return Err(ReceiveError::Closed);
            }
            self.decoder
                .feed(self.buffer.get(..count).unwrap_or_default());
        }
    }

    /// Ends the conversation in order: no more from us, then wait until the
    /// peer has read everything and closes. Closing first with bytes unread
    /// would make the kernel reset the connection, and cost the peer the end.
    pub async fn say_goodbye(&mut self, stream: &Stream) {
        if stream.finish().is_ok() {
            let drained = async {
                while stream
                    .read_some(&mut self.buffer)
                    .await
                    .is_ok_and(|count| count > 0)
                {}
            };
            let _ = timeout(GOODBYE, drained).await;
        }
    }
}

/// Data as frames; no frame is larger than upstream accepts.
pub fn data_frames(stream: StdioStream, data: &[u8]) -> Vec<u8> {
    let pieces = data.chunks(DATA_LIMIT);
    let mut frames = Vec::with_capacity(data.len() + 16 * pieces.len());
    for piece in pieces {
        frames.extend(data_frame(stream, piece));
    }
    frames
}

/// The end of a stream as a frame.
pub fn end_frame(stream: StdioStream) -> Vec<u8> {
    data_frame(stream, &[])
}

fn data_frame(stream: StdioStream, data: &[u8]) -> Vec<u8> {
    let data = Bytes::copy_from_slice(data);
    frame(host_message::Msg::DataMessage(DataMessage {
        stream: stream.into(),
        data,
    }))
}

/// A status as a frame.
pub fn status_frame(status: ConnectionStatus, description: String, code: i32) -> Vec<u8> {
    let status = status.into();
    frame(host_message::Msg::StatusMessage(ConnectionStatusMessage {
        status,
        description,
        code,
    }))
}

/// How a process ended, as a frame.
pub fn exit_frame(exit: Exit) -> Vec<u8> {
    let description = match exit {
        Exit::Code(_) => String::new(),
        Exit::Signal(number) => format!("killed by signal {number}"),
    };
    status_frame(ConnectionStatus::Exited, description, exit.shell_code())
}

fn frame(message: host_message::Msg) -> Vec<u8> {
    // Our own messages are far below the limit: a frame always comes out.
    encode(&HostMessage { msg: Some(message) }, MESSAGE_LIMIT).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_data_is_cut() {
        let data = vec![7; 2 * DATA_LIMIT + 1];
        let mut decoder = FrameDecoder::new(4096);
        decoder.feed(&data_frames(StdioStream::StdoutStream, &data));
        let mut sizes = Vec::new();
        while let Some(message) = decoder.next_message::<HostMessage>().unwrap() {
            match message.msg {
                Some(host_message::Msg::DataMessage(data)) => sizes.push(data.data.len()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(sizes, [DATA_LIMIT, DATA_LIMIT, 1]);
    }
}

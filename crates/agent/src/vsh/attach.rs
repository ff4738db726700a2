// SPDX-License-Identifier: Apache-2.0
//! The connections of kept sessions: attaching, and the list.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use inn_wire::vsh::{
    ConnectionStatus, SetupConnectionRequest, SetupConnectionResponse, StdioStream,
};
use tokio::time::timeout;

use super::channel::{ReceiveError, Receiver, end_frame, exit_frame, status_frame};
use super::kept::{Kept, Registry};
use super::launch::Refusal;
use super::log::{Next, Reader};
use super::session::{obey, respond};
use crate::stream::Stream;

/// How long a peer that we leave may take to read why.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Lists the kept sessions.
pub async fn list(stream: &Stream, receiver: &mut Receiver, registry: &Registry) {
    let response = SetupConnectionResponse {
        status: ConnectionStatus::Ready.into(),
        sessions: registry.describe(),
        ..Default::default()
    };
    if respond(stream, &response).await.is_ok() {
        receiver.say_goodbye(stream).await;
    }
}

/// Attaches to the session that the request names.
pub async fn attach(
    stream: &Stream,
    receiver: &mut Receiver,
    request: &SetupConnectionRequest,
    registry: &Registry,
) -> Result<(), Refusal> {
    let kept = registry.find(&request.attach)?;
    if let Some(controls) = kept.controls() {
        controls.show_window(request.window_rows, request.window_cols);
    }
    serve(stream, receiver, &kept).await;
    Ok(())
}

/// Says which session began, and no more.
pub async fn introduce(stream: &Stream, receiver: &mut Receiver, kept: &Kept) {
    if respond(stream, &introduction(kept, 0)).await.is_ok() {
        receiver.say_goodbye(stream).await;
    }
}

fn introduction(kept: &Kept, dropped_bytes: u64) -> SetupConnectionResponse {
    SetupConnectionResponse {
        status: ConnectionStatus::Ready.into(),
        pid: kept.pid,
        session_id: kept.id.clone(),
        tty: kept.tty,
        dropped_bytes,
        ..Default::default()
    }
}

/// Serves whoever is attached, until the process has ended, they have left, or
/// somebody else comes.
pub async fn serve(stream: &Stream, receiver: &mut Receiver, kept: &Kept) {
    let (reader, dropped) = Reader::new(Arc::clone(&kept.log));
    if respond(stream, &introduction(kept, dropped)).await.is_err() {
        return;
    }
    let controls = kept.controls();
    let was_told = {
        let mut writer = pin!(write(stream, reader));
        let mut peer = pin!(obey(stream, receiver, controls.as_deref()));
        tokio::select! {
            result = &mut writer => result.unwrap_or(false),
            error = &mut peer => {
                if let ReceiveError::Frame(error) = error {
                    // The reader is in the midst of a frame, perhaps: there is
                    // nothing that the peer could still understand.
                    crate::console::say(format_args!("session {}: {error}", kept.id));
                }
                false
            }
        }
    };
    if was_told {
        kept.collect();
        receiver.say_goodbye(stream).await;
    }
}

/// Sends what the process wrote and writes; true when its end was told.
async fn write(stream: &Stream, mut reader: Reader) -> io::Result<bool> {
    loop {
        match reader.next().await {
            Next::Frames(frames) => stream.write_all(&frames).await?,
            Next::Ended(exit) => {
                for kind in [StdioStream::StdoutStream, StdioStream::StderrStream] {
                    stream.write_all(&end_frame(kind)).await?;
                }
                stream.write_all(&exit_frame(exit)).await?;
                return Ok(true);
            }
            Next::TakenOver => {
                let description = "somebody else attached to this session".to_owned();
                let frame = status_frame(ConnectionStatus::Failed, description, 0);
                let _ = timeout(LAST_WORDS, stream.write_all(&frame)).await;
                return Ok(false);
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! One connection to the shell port, from its first message to its goodbye,
//! and the session that lives and ends with it.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use inn_wire::frame::{MESSAGE_LIMIT, encode};
use inn_wire::vsh::{
    ConnectionStatus, SetupConnectionRequest, SetupConnectionResponse, StdioStream,
};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::attach;
use super::channel::{ReceiveError, Receiver, data_frames, end_frame, exit_frame, status_frame};
use super::kept::{Label, Registry};
use super::launch::{Launched, Refusal, launch};
use super::plumbing::{Controls, Outputs, Plumbing};
use crate::agent::Agent;
use crate::process::output::Output;
use crate::process::reaper::{Child, Reaper};
use crate::stream::Stream;

/// How long a connection may stay without its first message.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between SIGHUP and SIGKILL after the connection was lost.
const HANGUP_GRACE: Duration = Duration::from_secs(2);

/// How long a peer that sent garbage may take to read why we leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Batches of output on their way to the connection. Together with the batch
/// size this bounds what a peer that does not read costs.
const BATCHES: usize = 4;

/// Says that there is no room for one more session.
pub async fn turn_away(stream: Stream, limit: usize) {
    let description = format!("{limit} sessions are running, which is the limit");
    let refusal = Refusal::other(description, Errno::EAGAIN);
    refuse(&stream, &mut Receiver::new(), &refusal).await;
}

/// Serves one connection.
pub async fn run(stream: Stream, agent: &Agent, registry: &Arc<Registry>) {
    let _mark = agent.session();
    let mut receiver = Receiver::new();
    let request: SetupConnectionRequest =
        match timeout(SETUP_TIMEOUT, receiver.receive(&stream)).await {
            Ok(Ok(request)) => request,
            Ok(Err(ReceiveError::Closed)) => return,
            Ok(Err(ReceiveError::Frame(error))) => {
                let description = format!("no setup request: {error}");
                let refusal = Refusal::other(description, Errno::EBADMSG);
                return refuse(&stream, &mut receiver, &refusal).await;
            }
            Err(_) => return,
        };
    receiver.after_setup();
    let served = if request.list_sessions {
        attach::list(&stream, &mut receiver, registry).await;
        Ok(())
    } else if !request.attach.is_empty() {
        attach::attach(&stream, &mut receiver, &request, registry).await
    } else if request.detachable || request.detached {
        start_kept(&stream, &mut receiver, request, agent, registry).await
    } else {
        start_bound(&stream, &mut receiver, request, agent).await
    };
    if let Err(refusal) = served {
        refuse(&stream, &mut receiver, &refusal).await;
    }
}

/// A session that ends with its connection.
async fn start_bound(
    stream: &Stream,
    receiver: &mut Receiver,
    request: SetupConnectionRequest,
    agent: &Agent,
) -> Result<(), Refusal> {
    let launched = start(request, agent).await?;
    let mut child = launched.child.clone();
    if converse(stream, receiver, launched, &agent.reaper).await == Ending::Lost {
        hang_up(&mut child, &agent.reaper).await;
    }
    Ok(())
}

/// A session that outlives its connection.
async fn start_kept(
    stream: &Stream,
    receiver: &mut Receiver,
    request: SetupConnectionRequest,
    agent: &Agent,
    registry: &Arc<Registry>,
) -> Result<(), Refusal> {
    registry.make_room()?;
    let (is_detached, no_stdin) = (request.detached, request.no_stdin);
    let argv = request.argv.clone();
    let launched = start(request, agent).await?;
    let mut child = launched.child.clone();
    let user = launched.user.clone();
    let Ok(plumbing) = Plumbing::new(launched, agent.reaper.clone()) else {
        hang_up(&mut child, &agent.reaper).await;
        return Err(Refusal::other("no streams for the process", Errno::EMFILE));
    };
    if no_stdin {
        plumbing.controls.end_input().await;
    }
    let kept = registry.keep(Label { user, argv }, plumbing);
    if is_detached {
        attach::introduce(stream, receiver, &kept).await;
    } else {
        attach::serve(stream, receiver, &kept).await;
    }
    Ok(())
}

/// Starts the process on a thread that may block: its program or folder may
/// lie on a share whose server hangs.
async fn start(request: SetupConnectionRequest, agent: &Agent) -> Result<Launched, Refusal> {
    if agent.is_stopping() {
        let description = "the guest is shutting down";
        return Err(Refusal::other(description, Errno::ESHUTDOWN));
    }
    let reaper = agent.reaper.clone();
    match tokio::task::spawn_blocking(move || launch(request, &reaper)).await {
        Ok(result) => result,
        Err(error) => Err(Refusal::other(error, Errno::EIO)),
    }
}

async fn refuse(stream: &Stream, receiver: &mut Receiver, refusal: &Refusal) {
    let response = SetupConnectionResponse {
        status: ConnectionStatus::Failed.into(),
        description: refusal.description.clone(),
        pid: 0,
        error_number: refusal.errno as i32,
        failed_step: refusal.step.into(),
        ..Default::default()
    };
    if respond(stream, &response).await.is_ok() {
        receiver.say_goodbye(stream).await;
    }
}

/// Sends the answer to the first message.
pub async fn respond(stream: &Stream, response: &SetupConnectionResponse) -> io::Result<()> {
    let frame = encode(response, MESSAGE_LIMIT)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    stream.write_all(&frame).await
}

/// How a conversation ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The process ended and the peer was told.
    Told,
    /// The peer went away, or stopped making sense.
    Lost,
}

/// Moves bytes and messages until the process ends or the peer is lost.
async fn converse(
    stream: &Stream,
    receiver: &mut Receiver,
    launched: Launched,
    reaper: &Reaper,
) -> Ending {
    let ready = SetupConnectionResponse {
        status: ConnectionStatus::Ready.into(),
        pid: launched.child.pid.as_raw(),
        ..Default::default()
    };
    if respond(stream, &ready).await.is_err() {
        return Ending::Lost;
    }
    let Ok(plumbing) = Plumbing::new(launched, reaper.clone()) else {
        return Ending::Lost;
    };
    let Plumbing {
        outputs,
        controls,
        child,
        feeder: _feeder,
    } = plumbing;
    let ending = {
        let (frames, queued) = mpsc::channel(BATCHES);
        let last_words = frames.clone();
        let mut writer = pin!(write_frames(stream, queued));
        let mut peer = pin!(obey(stream, receiver, Some(&controls)));
        tokio::select! {
            () = report(outputs, child, frames) => {
                // Everything is queued. A slow reader gets all the time it
                // wants, as long as it is there.
                drop(last_words);
                tokio::select! { _ = &mut writer => {}, _ = &mut peer => {} }
                Ending::Told
            }
            _ = &mut writer => Ending::Lost,
            error = &mut peer => {
                if let ReceiveError::Frame(error) = error {
                    let status = ConnectionStatus::Failed;
                    let frame = status_frame(status, error.to_string(), 0);
                    let say = async {
                        let _ = last_words.send(frame).await;
                        drop(last_words);
                        let _ = writer.await;
                    };
                    let _ = timeout(LAST_WORDS, say).await;
                }
                Ending::Lost
            }
        }
    };
    if ending == Ending::Told {
        receiver.say_goodbye(stream).await;
    }
    ending
}

/// Ends a process whose user is gone, as a closed terminal does: it may react
/// to SIGHUP, and what asked to survive that (nohup) does.
async fn hang_up(child: &mut Child, reaper: &Reaper) {
    reaper.signal_group(child.pid, Signal::SIGHUP);
    // A stopped process would see the signal only when continued.
    reaper.signal_group(child.pid, Signal::SIGCONT);
    if timeout(HANGUP_GRACE, child.exited()).await.is_err() {
        reaper.signal_group(child.pid, Signal::SIGKILL);
    }
}

async fn write_frames(stream: &Stream, mut queued: mpsc::Receiver<Vec<u8>>) -> io::Result<()> {
    while let Some(frames) = queued.recv().await {
        stream.write_all(&frames).await?;
    }
    Ok(())
}

/// Queues everything the process writes, then how it ended.
async fn report(outputs: Outputs, mut child: Child, frames: mpsc::Sender<Vec<u8>>) {
    let (stdout_stream, stderr_stream) = (StdioStream::StdoutStream, StdioStream::StderrStream);
    match outputs {
        Outputs::Terminal(output) => {
            pump(stdout_stream, output, &frames).await;
            // A terminal has no second stream; whoever waits for its end may.
            let _ = frames.send(end_frame(stderr_stream)).await;
        }
        Outputs::Pipes { stdout, stderr } => {
            tokio::join!(
                pump(stdout_stream, stdout, &frames),
                pump(stderr_stream, stderr, &frames),
            );
        }
    }
    let _ = frames.send(exit_frame(child.exited().await)).await;
}

async fn pump(kind: StdioStream, mut output: Output, frames: &mpsc::Sender<Vec<u8>>) {
    // Room first, bytes second: what the peer does not take stays in the
    // process's pipe, and the process waits.
    while let Ok(room) = frames.reserve().await {
        match output.read().await {
            Ok(bytes) if !bytes.is_empty() => room.send(data_frames(kind, bytes)),
            _ => return room.send(end_frame(kind)),
        }
    }
}

/// Does what the peer says until it stops making sense, or leaves. A peer that
/// closes only its sending side has left: the end of input has its own message.
pub async fn obey(
    stream: &Stream,
    receiver: &mut Receiver,
    controls: Option<&Controls>,
) -> ReceiveError {
    loop {
        let message = match receiver.receive(stream).await {
            Ok(message) => message,
            Err(error) => return error,
        };
        // Without a process, messages have no meaning any more.
        if let Some(controls) = controls {
            if let Err(error) = controls.apply(message, stream).await {
                return error;
            }
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! One shell session, from its first message to its goodbye.

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use inn_wire::frame::{DATA_LIMIT, MESSAGE_LIMIT, encode};
use inn_wire::vsh::{
    ConnectionStatus, GuestMessage, SetupConnectionRequest, SetupConnectionResponse, StdioStream,
    guest_message::Msg,
};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::channel::{ReceiveError, Receiver, data_frames, end_frame, status_frame};
use super::launch::{Ends, Launched, Refusal, launch};
use super::stdin::{self, Queue};
use crate::agent::Agent;
use crate::process::output::Output;
use crate::process::pty;
use crate::process::reaper::{Child, Exit, Reaper};
use crate::stream::Stream;

/// How long a connection may stay without its first message.
const SETUP_TIMEOUT: Duration = Duration::from_secs(30);

/// Time between SIGHUP and SIGKILL after the connection was lost.
const HANGUP_GRACE: Duration = Duration::from_secs(2);

/// How often a full input queue asks whether the peer is still there.
const STALL_CHECK: Duration = Duration::from_millis(500);

/// How long a peer that sent garbage may take to read why we leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Batches of output on their way to the connection. Together with the batch
/// size this bounds what a peer that does not read costs.
const BATCHES: usize = 4;

/// Bytes of output read at once: a whole number of full messages.
const BATCH_SIZE: usize = 8 * DATA_LIMIT;

/// Says that there is no room for one more session.
pub async fn turn_away(stream: Stream, limit: usize) {
    let description = format!("{limit} sessions are running, which is the limit");
    let refusal = Refusal::other(description, Errno::EAGAIN);
    refuse(&stream, &mut Receiver::new(), &refusal).await;
}

/// Serves one connection.
pub async fn run(stream: Stream, agent: &Agent) {
    let _mark = agent.session();
    let mut receiver = Receiver::new();
    let request = match timeout(SETUP_TIMEOUT, receiver.receive(&stream)).await {
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
    let launched = match start(request, agent).await {
        Ok(launched) => launched,
        Err(refusal) => return refuse(&stream, &mut receiver, &refusal).await,
    };
    let mut child = launched.child.clone();
    if converse(&stream, &mut receiver, launched, &agent.reaper).await == Ending::Lost {
        hang_up(&mut child, &agent.reaper).await;
    }
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
    };
    if respond(stream, &response).await.is_ok() {
        receiver.say_goodbye(stream).await;
    }
}

async fn respond(stream: &Stream, response: &SetupConnectionResponse) -> io::Result<()> {
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
        let mut peer = pin!(obey(stream, receiver, controls));
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

/// The streams of a session and who uses which.
struct Plumbing {
    outputs: Outputs,
    controls: Controls,
    child: Child,
    feeder: AbortOnDrop,
}

enum Outputs {
    Terminal(Arc<Stream>),
    Pipes { stdout: Stream, stderr: Stream },
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Plumbing {
    fn new(launched: Launched, reaper: Reaper) -> io::Result<Self> {
        let Launched { child, ends } = launched;
        let (queue, feed) = stdin::queue();
        let (outputs, terminal, feeder) = match ends {
            Ends::Terminal(master) => {
                let master = Arc::new(Stream::new(master)?);
                let feeder = tokio::spawn(feed.into_terminal(Arc::clone(&master)));
                (Outputs::Terminal(Arc::clone(&master)), Some(master), feeder)
            }
            Ends::Pipes {
                stdin,
                stdout,
                stderr,
            } => {
                let feeder = tokio::spawn(feed.into_pipe(Stream::new(stdin)?));
                let outputs = Outputs::Pipes {
                    stdout: Stream::new(stdout)?,
                    stderr: Stream::new(stderr)?,
                };
                (outputs, None, feeder)
            }
        };
        let controls = Controls {
            queue,
            terminal,
            pid: child.pid,
            reaper,
        };
        Ok(Self {
            outputs,
            controls,
            child,
            feeder: AbortOnDrop(feeder),
        })
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
        Outputs::Terminal(master) => {
            pump(stdout_stream, &master, child.clone(), &frames).await;
            // A terminal has no second stream; whoever waits for its end may.
            let _ = frames.send(end_frame(stderr_stream)).await;
        }
        Outputs::Pipes { stdout, stderr } => {
            tokio::join!(
                pump(stdout_stream, &stdout, child.clone(), &frames),
                pump(stderr_stream, &stderr, child.clone(), &frames),
            );
        }
    }
    let exit = child.exited().await;
    let description = match exit {
        Exit::Code(_) => String::new(),
        Exit::Signal(number) => format!("killed by signal {number}"),
    };
    let frame = status_frame(ConnectionStatus::Exited, description, exit.shell_code());
    let _ = frames.send(frame).await;
}

async fn pump(kind: StdioStream, source: &Stream, child: Child, frames: &mpsc::Sender<Vec<u8>>) {
    let mut output = Output::new(child);
    let mut buffer = vec![0; BATCH_SIZE];
    // Room first, bytes second: what the peer does not take stays in the
    // process's pipe, and the process waits.
    while let Ok(room) = frames.reserve().await {
        match output.read(source, &mut buffer).await {
            Ok(count @ 1..) => {
                room.send(data_frames(kind, buffer.get(..count).unwrap_or_default()));
            }
            _ => return room.send(end_frame(kind)),
        }
    }
}

/// Does what the peer says until it stops making sense, or leaves. A peer that
/// closes only its sending side has left: the end of input has its own message.
async fn obey(stream: &Stream, receiver: &mut Receiver, controls: Controls) -> ReceiveError {
    loop {
        let message: GuestMessage = match receiver.receive(stream).await {
            Ok(message) => message,
            Err(error) => return error,
        };
        if let Err(error) = controls.apply(message, stream).await {
            return error;
        }
    }
}

/// What messages act on.
struct Controls {
    queue: Queue,
    terminal: Option<Arc<Stream>>,
    pid: nix::unistd::Pid,
    reaper: Reaper,
}

impl Controls {
    async fn apply(&self, message: GuestMessage, stream: &Stream) -> Result<(), ReceiveError> {
        match message.msg {
            Some(Msg::DataMessage(data)) if data.stream() == StdioStream::StdinStream => {
                self.input(data.data, stream).await?;
            }
            Some(Msg::ResizeMessage(size)) => {
                if let Some(terminal) = &self.terminal {
                    let _ = pty::resize(terminal, size.rows, size.cols);
                }
            }
            Some(Msg::Signal(number)) => self.signal(number),
            // Messages from a newer peer, or without meaning in this direction.
            Some(Msg::DataMessage(_) | Msg::StatusMessage(_)) | None => {}
        }
        Ok(())
    }

    /// Queues input. While the queue is full the connection is not read, so
    /// that the peer's leaving has to be noticed otherwise.
    async fn input(&self, data: bytes::Bytes, stream: &Stream) -> Result<(), ReceiveError> {
        let mut push = pin!(self.queue.push(data));
        while timeout(STALL_CHECK, &mut push).await.is_err() {
            if stream.peer_finished() {
                return Err(ReceiveError::Closed);
            }
        }
        Ok(())
    }

    fn signal(&self, number: i32) {
        // Upstream names four; every number the kernel knows is as good.
        let Ok(signal) = Signal::try_from(number) else {
            return;
        };
        let foreground = match &self.terminal {
            Some(terminal) => pty::signal_foreground(terminal, signal).is_ok(),
            None => false,
        };
        if !foreground {
            self.reaper.signal_group(self.pid, signal);
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! The running agent: its servers, and what they share.

use std::io;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use inn_wire::announce::Failure;
use nix::sys::signal::Signal;
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::control::targets::Targets;
use crate::failures::Failures;
use crate::notify::Notices;
use crate::process::reaper::Reaper;
use crate::transport::{Listener, Transport};
use crate::{announce, console, control, forward, guestlog, login, units, vsh};

/// Pauses between attempts to listen, as PID 1 only: the vsock module may come
/// with a later image layer, and PID 1 must not end.
const LISTEN_RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// `SIGPWR` on Linux: power failure; inits are told to shut down by it.
const SIGPWR: i32 = libc::SIGPWR;

/// Threads for calls that may block. Only as many exist as are in use; programs
/// that hold their pipes for ever must not use up those that start others.
const BLOCKING_THREADS: usize = 4096;

/// What the command line decides.
pub struct Settings {
    /// How the host is reached.
    pub transport: Transport,
    /// When `main` began, since boot.
    pub started: Duration,
    /// Whether the host's clock is taken over.
    pub sets_clock: bool,
    /// Whether a login shell runs on the console.
    pub console_shell: bool,
    /// Whether the image's units are started: another init starts its own.
    pub starts_units: bool,
}

/// What the servers share.
pub struct Agent {
    /// Collects every child.
    pub reaper: Reaper,
    /// Tells the host what went wrong.
    pub failures: Failures,
    /// Whether this process is PID 1.
    pub is_init: bool,
    /// What the host changed in shared folders.
    pub notices: Notices,
    /// Folders made for mounts.
    pub targets: Targets,
    /// A host asked for the guest's log.
    pub logs_wanted: Notify,
    stopping: watch::Sender<bool>,
    sessions: watch::Sender<()>,
    shutdown: Notify,
}

/// Whether this process is the first of its guest.
pub fn is_pid_1() -> bool {
    std::process::id() == 1
}

impl Agent {
    fn new(earlier: Vec<Failure>) -> Self {
        Self {
            reaper: Reaper::default(),
            failures: Failures::new(earlier),
            is_init: is_pid_1(),
            notices: Notices::default(),
            targets: Targets::default(),
            logs_wanted: Notify::new(),
            stopping: watch::Sender::new(false),
            sessions: watch::Sender::new(()),
            shutdown: Notify::new(),
        }
    }

    /// Asks for the guest's end, which begins soon.
    pub fn request_shutdown(&self) {
        self.shutdown.notify_one();
    }

    /// Whether the end has begun: nothing new starts.
    pub fn is_stopping(&self) -> bool {
        *self.stopping.borrow()
    }

    /// A view of "the end has begun", which the end waits for while it is held.
    pub fn conversations(&self) -> watch::Receiver<bool> {
        self.stopping.subscribe()
    }

    /// Waits until the end begins. Holds a view as long as it waits.
    pub async fn stopped(mut view: watch::Receiver<bool>) {
        // An error means that the agent itself is gone.
        let _ = view.wait_for(|stopping| *stopping).await;
    }

    /// Lets the end begin.
    pub fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// The end did not come.
    pub fn resume(&self) {
        self.stopping.send_replace(false);
    }

    /// A mark of a running session, which the end waits for while it is held.
    pub fn session(&self) -> watch::Receiver<()> {
        self.sessions.subscribe()
    }

    /// Waits until every session has said its goodbye.
    pub async fn sessions_over(&self) {
        self.sessions.closed().await;
    }

    /// Waits until nobody holds a view any more.
    pub async fn conversations_over(&self) {
        self.stopping.closed().await;
    }
}

/// Runs the agent. PID 1 comes back only if the kernel refuses to power off.
pub fn run(settings: Settings, earlier: Vec<Failure>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error),
    };
    let code = match runtime.block_on(serve(settings, Arc::new(Agent::new(earlier)))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    };
    // Without waiting for calls that never return.
    runtime.shutdown_background();
    code
}

fn failed(error: &io::Error) -> ExitCode {
    console::say(error);
    ExitCode::FAILURE
}

async fn serve(settings: Settings, agent: Arc<Agent>) -> io::Result<()> {
    let mut ends = Ends::new()?;
    // Before anything that may take its time: orphans exist already.
    let reaper = tokio::spawn(agent.reaper.clone().run());
    if settings.console_shell {
        // Before the servers: it is for the guest whose vsock is broken.
        tokio::spawn(login::run(Arc::clone(&agent)));
    }
    let shells = listen(&settings.transport, vsh::PORT, &agent).await?;
    let control = listen(&settings.transport, control::PORT, &agent).await?;
    let forwards = listen(&settings.transport, forward::PORT, &agent).await?;
    tokio::spawn(vsh::serve(shells, Arc::clone(&agent)));
    tokio::spawn(control::serve(
        control,
        settings.transport.clone(),
        Arc::clone(&agent),
    ));
    tokio::spawn(forward::serve(forwards));
    tokio::spawn(guestlog::run(
        settings.transport.clone(),
        Arc::clone(&agent),
    ));
    if settings.starts_units {
        tokio::spawn(units::start_all(Arc::clone(&agent)));
    }
    tokio::spawn(announce::run(settings, Arc::clone(&agent)));
    loop {
        tokio::select! {
            () = agent.shutdown.notified() => control::shutdown::run(&agent).await,
            () = ends.any() => {
                if !agent.is_init {
                    break;
                }
                control::shutdown::run(&agent).await;
            }
        }
    }
    // A service that is stopped takes its sessions along, as a terminal does.
    agent.reaper.signal_all(Signal::SIGHUP);
    reaper.abort();
    Ok(())
}

async fn listen(transport: &Transport, port: u32, agent: &Agent) -> io::Result<Listener> {
    let (mut pause, longest) = LISTEN_RETRY;
    loop {
        match transport.listen(port) {
            Ok(listener) => return Ok(listener),
            Err(error) if agent.is_init => {
                agent
                    .failures
                    .report("listen", format!("port {port}: {error}"));
                sleep(pause).await;
                pause = longest.min(pause * 2);
            }
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("port {port}: {error}"),
                ));
            }
        }
    }
}

/// The signals that mean the end.
struct Ends {
    terminate: Signals,
    interrupt: Signals,
    power: Signals,
}

impl Ends {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            // Ctrl-Alt-Del, once the kernel was told not to reboot on its own.
            interrupt: signal(SignalKind::interrupt())?,
            power: signal(SignalKind::from_raw(SIGPWR))?,
        })
    }

    async fn any(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.power.recv() => {}
        }
    }
}

// SPDX-License-Identifier: Apache-2.0
//! LaunchProcess: programs without a session.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Uid, pipe2};
use tokio::time::Instant;
use tonic::Status;

use super::proto::{LaunchProcessRequest, LaunchProcessResponse, ProcessStatus};
use crate::agent::Agent;
use crate::process::environment::Environment;
use crate::process::limit::{MAX_STARTS, START_WINDOW, StartLimit};
use crate::process::output::{Output, Source};
use crate::process::pipe::PipeReader;
use crate::process::reaper::{Child, Exit, Reaper};
use crate::process::spawn::{Plan, SpawnError, Step, c_strings, spawn};
use crate::process::users::Database;

/// Output kept of a process somebody waits for.
const MAX_OUTPUT: usize = 64 << 10;

/// Starts the program; waits for it if asked to.
pub async fn launch_process(
    agent: &Arc<Agent>,
    request: LaunchProcessRequest,
) -> Result<LaunchProcessResponse, Status> {
    if request.respawn && request.wait_for_exit {
        return Err(Status::invalid_argument(
            "a process that respawns never exits",
        ));
    }
    if agent.is_stopping() {
        return Err(Status::unavailable("the guest is shutting down"));
    }
    let started = start(&agent.reaper, &request).await;
    let (child, output) = match started {
        Ok(started) => started,
        Err(errno) => {
            return Ok(response(ProcessStatus::Failed, errno as i32, Vec::new()));
        }
    };
    if let Some(output) = output {
        return Ok(finish(child, output).await);
    }
    if request.respawn {
        tokio::spawn(supervise(Arc::clone(agent), request, child));
    }
    Ok(response(ProcessStatus::Launched, 0, Vec::new()))
}

fn response(status: ProcessStatus, code: i32, output: Vec<u8>) -> LaunchProcessResponse {
    LaunchProcessResponse {
        status: status.into(),
        code,
        output,
    }
}

/// Starts on a thread that may block.
async fn start(
    reaper: &Reaper,
    request: &LaunchProcessRequest,
) -> nix::Result<(Child, Option<PipeReader>)> {
    let (reaper, request) = (reaper.clone(), request.clone());
    let started = tokio::task::spawn_blocking(move || start_now(&reaper, request)).await;
    let (child, output) = started.map_err(|_| Errno::EIO)??;
    let output = output
        .map(PipeReader::new)
        .transpose()
        .map_err(|error| errno_of(&error))?;
    Ok((child, output))
}

fn start_now(
    reaper: &Reaper,
    request: LaunchProcessRequest,
) -> nix::Result<(Child, Option<OwnedFd>)> {
    let invalid = |_| Errno::EINVAL;
    let command = request.argv.first().ok_or(Errno::EINVAL)?;
    let account = Database::read(Path::new("/etc")).by_uid(Uid::effective().as_raw());
    let mut env = Environment::login(&account);
    env.extend(request.env).map_err(|_| Errno::EINVAL)?;
    let (stdio, output) = stdio(request.use_console, request.wait_for_exit)?;
    let plan = Plan {
        programs: c_strings(env.candidates(command)).map_err(invalid)?,
        argv: c_strings(request.argv).map_err(invalid)?,
        env: env.into_strings().map_err(invalid)?,
        cwd: vec![c"/".to_owned()],
        identity: None,
        stdio,
        terminal: false,
    };
    let child = reaper
        .start(|| spawn(plan))
        .map_err(|SpawnError { step, errno }| match step {
            Step::Exec | Step::Fork => errno,
            _ => Errno::EIO,
        })?;
    Ok((child, output))
}

/// Input from nowhere; output to a pipe of ours, the console or nowhere.
fn stdio(console: bool, captured: bool) -> nix::Result<([OwnedFd; 3], Option<OwnedFd>)> {
    let open = |path: &str| {
        let file = File::options().read(true).write(true).open(path);
        file.map(OwnedFd::from).map_err(|error| errno_of(&error))
    };
    let copy = |fd: &OwnedFd| fd.try_clone().map_err(|error| errno_of(&error));
    let input = open("/dev/null")?;
    if captured {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
        return Ok(([input, copy(&writer)?, writer], Some(reader)));
    }
    let output = open(if console { "/dev/console" } else { "/dev/null" })?;
    Ok(([input, copy(&output)?, output], None))
}

fn errno_of(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Collects the output, as much of it as is kept, and the exit.
async fn finish(mut child: Child, source: PipeReader) -> LaunchProcessResponse {
    let mut output = Output::new(child.clone(), Source::Pipe(source));
    let mut kept = Vec::new();
    // What is over the limit is read all the same: the process must not wait.
    while let Ok(bytes) = output.read().await {
        if bytes.is_empty() {
            break;
        }
        let room = bytes.len().min(MAX_OUTPUT - kept.len());
        kept.extend_from_slice(bytes.get(..room).unwrap_or_default());
    }
    match child.exited().await {
        Exit::Code(code) => response(ProcessStatus::Exited, code, kept),
        Exit::Signal(number) => response(ProcessStatus::Signaled, number, kept),
    }
}

/// Starts the program again each time it exits, until it is plainly broken.
async fn supervise(agent: Arc<Agent>, request: LaunchProcessRequest, mut child: Child) {
    let mut limit = StartLimit::default();
    limit.allows(Instant::now());
    let name = request.argv.first().map_or("", String::as_str).to_owned();
    loop {
        let exit = child.exited().await;
        if agent.is_stopping() {
            return;
        }
        if !limit.allows(Instant::now()) {
            let seconds = START_WINDOW.as_secs();
            let detail = format!(
                "{name} exited {MAX_STARTS} times in {seconds} s, the last time with {}",
                exit.shell_code()
            );
            return agent.failures.report("respawn", detail);
        }
        tokio::select! {
            started = start(&agent.reaper, &request) => match started {
                Ok((next, _)) => child = next,
                Err(errno) => {
                    return agent.failures.report("respawn", format!("{name}: {}", errno.desc()));
                }
            },
            () = Agent::stopped(agent.conversations()) => return,
        }
    }
}

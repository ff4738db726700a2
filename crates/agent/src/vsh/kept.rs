// SPDX-License-Identifier: Apache-2.0
//! Kept sessions: they outlive their connections, and somebody may attach to
//! them later. Each has one task that owns its process and its output; the
//! task of a connection only reads and obeys.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use inn_wire::vsh::{KeptSession, StdioStream};
use nix::errno::Errno;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::launch::Refusal;
use super::log::Log;
use super::plumbing::{Controls, Outputs, Plumbing};
use crate::clock;
use crate::process::output::Output;
use crate::process::reaper::Child;

/// Kept sessions at the same time, ended ones included; each may hold
/// [`super::log::CAPACITY`] bytes of output.
const MAX_KEPT: usize = 64;

/// How long an ended one waits for somebody to collect it.
const KEEP: Duration = Duration::from_secs(3600);

/// Bytes of argv that a list shows.
const MAX_ARGV: usize = 512;

/// One kept session.
pub struct Kept {
    /// Its name; unique in this agent.
    pub id: String,
    /// Its process.
    pub pid: i32,
    /// Whether it has a terminal.
    pub tty: bool,
    /// What it writes.
    pub log: Arc<Log>,
    user: String,
    argv: Vec<String>,
    begun: Duration,
    controls: Mutex<Option<Arc<Controls>>>,
    collected: Notify,
}

impl Kept {
    /// What messages act on, while the process runs.
    pub fn controls(&self) -> Option<Arc<Controls>> {
        let controls = self.controls.lock();
        controls.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Somebody was told how it ended: nobody else will be.
    pub fn collect(&self) {
        self.collected.notify_one();
    }

    /// A line of the list.
    fn describe(&self) -> KeptSession {
        let exit = self.log.exit();
        let age = clock::since_boot().saturating_sub(self.begun);
        KeptSession {
            id: self.id.clone(),
            pid: self.pid,
            user: self.user.clone(),
            argv: self.argv.clone(),
            tty: self.tty,
            attached: self.log.is_read(),
            age_ms: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            ended: exit.is_some(),
            code: exit.map_or(0, |exit| exit.shell_code()),
        }
    }

    /// Owns the process and its streams until somebody has collected its end,
    /// or nobody does for long.
    async fn own(&self, outputs: Outputs, mut child: Child) {
        match outputs {
            Outputs::Terminal(output) => self.copy(StdioStream::StdoutStream, output).await,
            Outputs::Pipes { stdout, stderr } => {
                tokio::join!(
                    self.copy(StdioStream::StdoutStream, stdout),
                    self.copy(StdioStream::StderrStream, stderr),
                );
            }
        }
        let exit = child.exited().await;
        let controls = self.controls.lock();
        controls.unwrap_or_else(PoisonError::into_inner).take();
        self.log.finish(exit);
        let _ = timeout(KEEP, self.collected.notified()).await;
    }

    async fn copy(&self, kind: StdioStream, mut output: Output) {
        loop {
            self.log.has_room().await;
            match output.read().await {
                Ok(bytes) if !bytes.is_empty() => self.log.push(kind, bytes),
                _ => return,
            }
        }
    }
}

/// What a new kept session is called by, beside its process.
pub struct Label {
    /// Login name of its user.
    pub user: String,
    /// Its command; empty is a login shell.
    pub argv: Vec<String>,
}

/// All kept sessions, in the order of their starts.
#[derive(Default)]
pub struct Registry(Mutex<Vec<Arc<Kept>>>);

impl Registry {
    /// Makes room for one more: the oldest ended one goes if need be.
    pub fn make_room(&self) -> Result<(), Refusal> {
        let mut list = self.lock();
        if list.len() < MAX_KEPT {
            return Ok(());
        }
        let Some(oldest) = list.iter().position(|kept| kept.log.exit().is_some()) else {
            let description = format!("{MAX_KEPT} kept sessions are running, which is the limit");
            return Err(Refusal::other(description, Errno::EAGAIN));
        };
        list.remove(oldest).collect();
        Ok(())
    }

    /// Keeps a session from now on.
    pub fn keep(self: &Arc<Self>, label: Label, plumbing: Plumbing) -> Arc<Kept> {
        let Plumbing {
            outputs,
            controls,
            child,
            feeder,
        } = plumbing;
        let kept = {
            let mut list = self.lock();
            let kept = Arc::new(Kept {
                id: new_id(|id| list.iter().any(|known| known.id == id)),
                pid: child.pid.as_raw(),
                tty: matches!(outputs, Outputs::Terminal(_)),
                log: Arc::new(Log::default()),
                user: label.user,
                argv: shorten(label.argv),
                begun: clock::since_boot(),
                controls: Mutex::new(Some(Arc::new(controls))),
                collected: Notify::new(),
            });
            list.push(Arc::clone(&kept));
            kept
        };
        let (registry, owned) = (Arc::clone(self), Arc::clone(&kept));
        tokio::spawn(async move {
            owned.own(outputs, child).await;
            drop(feeder);
            registry.lock().retain(|known| !Arc::ptr_eq(known, &owned));
        });
        kept
    }

    /// The session with this id, or the only one whose id begins so.
    pub fn find(&self, wanted: &str) -> Result<Arc<Kept>, Refusal> {
        let list = self.lock();
        let mut found = list.iter().filter(|kept| kept.id.starts_with(wanted));
        match (found.next(), found.next()) {
            (Some(kept), None) => Ok(Arc::clone(kept)),
            (None, _) => Err(Refusal::other(
                format_args!("no session \"{wanted}\""),
                Errno::ESRCH,
            )),
            (Some(_), Some(_)) => Err(Refusal::other(
                format_args!("the ids of several sessions begin with \"{wanted}\""),
                Errno::EINVAL,
            )),
        }
    }

    /// All of them, for a list.
    pub fn describe(&self) -> Vec<KeptSession> {
        self.lock().iter().map(|kept| kept.describe()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Kept>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Six random digits: short to type, and not those of an earlier agent.
fn new_id(taken: impl Fn(&str) -> bool) -> String {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let id = format!("{:06x}", random & 0xff_ffff);
        if !taken(&id) {
            return id;
        }
    }
}

/// The words that fit, the last one cut.
fn shorten(argv: Vec<String>) -> Vec<String> {
    let mut room = MAX_ARGV;
    let cut = |word: String| {
        let end = (0..=word.len().min(room))
            .rev()
            .find(|end| word.is_char_boundary(*end))
            .unwrap_or(0);
        let kept = word.get(..end).unwrap_or_default().to_owned();
        // An empty word is not free either.
        room = room.saturating_sub(end + 1);
        (room > 0 || end > 0).then_some(kept)
    };
    argv.into_iter().map_while(cut).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_short_and_new() {
        let first = new_id(|_| false);
        assert_eq!(first.len(), 6);
        assert_ne!(new_id(|id| id == first), first);
    }

    #[test]
    fn long_commands_are_cut() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        assert_eq!(shorten(words(&["a", "b"])), ["a", "b"]);
        let cut = shorten(words(&["a", &"é".repeat(MAX_ARGV), "c"]));
        assert_eq!(cut.len(), 2);
        assert!(cut[1].len() < MAX_ARGV);
        assert!(shorten(vec![String::new(); 10 * MAX_ARGV]).len() <= MAX_ARGV);
    }
}

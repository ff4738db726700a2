// SPDX-License-Identifier: Apache-2.0
//! The process that answers for a program's system calls, until the last process that
//! came of it is gone.
//!
//! ```text
//! question ──> decide ──┬──────────────────────────> answer
//!                       └─> waiting for its socket ──> answer
//!                             └─ dropped when the callee takes it back (a signal, its end)
//! ```

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use inn_inet::address::Form;
use inn_inet::swap;
use inn_inet::sys::Errno;

use super::callee::{Answer, Callee, Questions};
use super::calls::{self, Outcome, Rules};

/// How often those who wait are looked after: nobody says that a signal ended a call.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// As many answers as are kept for callees that were interrupted.
const MOST_UNHEARD: usize = 64;

/// A call that waits.
struct Waiting {
    callee: Callee,
    socket: OwnedFd,
    what: What,
    deadline: Option<Instant>,
}

#[derive(Clone, Copy)]
enum What {
    Connect,
    Accept(Form),
}

/// The state of a watcher.
pub struct Watcher {
    questions: Questions,
    rules: Rules,
    waiting: Vec<Waiting>,
    /// Answers that a signal kept from the callee, by thread's socket and call: it asks
    /// again, of a socket that is another by now.
    unheard: HashMap<(libc::ino_t, i64), Answer>,
}

impl Watcher {
    /// Watches those whose questions these are.
    pub fn new(questions: OwnedFd, rules: Rules) -> Self {
        Self {
            questions: Questions::new(questions),
            rules,
            waiting: Vec::new(),
            unheard: HashMap::new(),
        }
    }

    /// Answers until nobody is left to ask.
    pub fn run(mut self) {
        while let Ok(is_asked) = self.wait() {
            if is_asked {
                // One that was taken back is none.
                if let Ok(callee) = self.questions.next() {
                    self.take(callee);
                }
            }
            self.look_after();
        }
    }

    /// Waits until there is something to do; whether there is a question.
    fn wait(&self) -> io::Result<bool> {
        let entry = |fd: RawFd, events| libc::pollfd {
            fd,
            events,
            revents: 0,
        };
        let mut polled = vec![entry(self.questions.as_raw_fd(), libc::POLLIN)];
        for one in &self.waiting {
            let events = match one.what {
                What::Connect => libc::POLLOUT,
                What::Accept(_) => libc::POLLIN,
            };
            polled.push(entry(one.socket.as_raw_fd(), events));
            polled.push(entry(one.callee.process.as_raw_fd(), libc::POLLIN));
        }
        let timeout_ms = match self.next_deadline() {
            // One more, or it would be a little early, and again at once.
            Some(left) => i32::try_from(left.as_millis()).unwrap_or(i32::MAX) + 1,
            None => -1,
        };
        // SAFETY: the kernel reads and writes as many entries as there are.
        let count = unsafe {
            libc::poll(
                polled.as_mut_ptr(),
                polled.len() as libc::nfds_t,
                timeout_ms,
            )
        };
        let events = polled.first().map_or(0, |entry| entry.revents);
        match count {
            -1 => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(false),
                error => Err(error),
            },
            _ if events & libc::POLLIN != 0 => Ok(true),
            _ if events != 0 => Err(io::ErrorKind::NotConnected.into()),
            _ => Ok(false),
        }
    }

    fn next_deadline(&self) -> Option<Duration> {
        let now = Instant::now();
        let deadlines = self.waiting.iter().filter_map(|one| one.deadline);
        let nearest = deadlines.map(|at| at.saturating_duration_since(now)).min();
        let usual = (!self.waiting.is_empty()).then_some(LOOK_AFTER);
        nearest.into_iter().chain(usual).min()
    }

    fn take(&mut self, callee: Callee) {
        if let Some(answer) = self.answer_unheard(&callee) {
            self.answer(&callee, answer);
            return;
        }
        let (socket, what, timeout_ms) = match calls::decide(&self.questions, &callee, &self.rules)
        {
            Outcome::Now(answer) => return self.answer(&callee, answer),
            Outcome::Sent => return,
            Outcome::Connecting(socket, timeout) => (socket, What::Connect, timeout),
            Outcome::Accepting(socket, form, timeout) => (socket, What::Accept(form), timeout),
        };
        let timeout = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
        self.waiting.push(Waiting {
            callee,
            socket,
            what,
            deadline: timeout.map(|timeout| Instant::now() + timeout),
        });
    }

    fn answer(&mut self, callee: &Callee, answer: Answer) {
        let sent = self.questions.answer(callee.id, answer);
        if sent.is_err() && answer != Answer::Continue && self.unheard.len() < MOST_UNHEARD {
            if let Some(key) = changed_socket(callee) {
                self.unheard.insert(key, answer);
            }
        }
    }

    fn answer_unheard(&mut self, callee: &Callee) -> Option<Answer> {
        if self.unheard.is_empty() {
            return None;
        }
        self.unheard.remove(&changed_socket(callee)?)
    }

    /// Answers those whose socket is ready, and drops those who do not wait any more.
    fn look_after(&mut self) {
        let now = Instant::now();
        for mut one in std::mem::take(&mut self.waiting) {
            if !self.questions.is_open(one.callee.id) {
                continue;
            }
            let late = one.deadline.is_some_and(|at| at <= now);
            match self.progress(&mut one, late) {
                Some(Outcome::Now(answer)) => self.answer(&one.callee, answer),
                Some(_) => {}
                None => self.waiting.push(one),
            }
        }
    }

    fn progress(&self, one: &mut Waiting, late: bool) -> Option<Outcome> {
        let (questions, rules) = (&self.questions, &self.rules);
        let done = match one.what {
            What::Accept(form) => calls::accept(questions, &one.callee, rules, &one.socket, form),
            What::Connect => {
                use inn_inet::sys::{POLL_OUT, poll};
                let fd = one.socket.as_raw_fd();
                let ready = poll(fd, POLL_OUT, 0) == Ok(true);
                ready.then(|| Outcome::Now(swap::take_error(fd).into()))
            }
        };
        done.or_else(|| {
            let errno = match one.what {
                What::Accept(_) => Errno::EAGAIN,
                What::Connect => Errno::EINPROGRESS,
            };
            late.then_some(Outcome::Now(Answer::Error(errno.0)))
        })
    }
}

/// Names a callee's socket, for calls that put another one in its place.
fn changed_socket(callee: &Callee) -> Option<(libc::ino_t, i64)> {
    let changes = [libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];
    if !changes.contains(&callee.number) {
        return None;
    }
    let socket = callee.socket(callee.number(0)).ok()?;
    swap::form_of(socket.as_raw_fd())?;
    let info = nix::sys::stat::fstat(&socket).ok()?;
    Some((info.st_ino, callee.number))
}

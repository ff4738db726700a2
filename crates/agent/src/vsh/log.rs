// SPDX-License-Identifier: Apache-2.0
//! The output of a kept session: its last bytes, and how much came before.
//!
//! While nobody is attached the oldest bytes go and the process never waits,
//! as with screen and tmux. While somebody is, nothing that they have not been
//! sent goes, and the process waits for them, as at a terminal.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use inn_wire::frame::DATA_LIMIT;
use inn_wire::vsh::StdioStream;
use tokio::sync::watch;

use super::channel::data_frames;
use crate::process::reaper::Exit;

/// What the kept output may cost.
pub const CAPACITY: usize = 256 << 10;

/// What a piece costs besides its bytes, so that many tiny ones are bounded.
const PIECE_COST: usize = 64;

/// Bytes given to a reader at once.
const BATCH: usize = 8 * DATA_LIMIT;

/// Shared by the process's side and at most one reader.
#[derive(Default)]
pub struct Log {
    inner: Mutex<Inner>,
    /// More to read, or a new reader.
    news: watch::Sender<()>,
    /// Less unread, or no reader.
    room: watch::Sender<()>,
}

#[derive(Default)]
struct Inner {
    pieces: VecDeque<Piece>,
    cost: usize,
    /// Offsets in the output since the process began: of the first kept byte,
    /// after the last one, after the last one that any reader was given.
    start: u64,
    end: u64,
    given: u64,
    /// How far the present reader is.
    reader: Option<u64>,
    /// Readers so far: only the latest one is served.
    turn: u64,
    exit: Option<Exit>,
}

struct Piece {
    kind: StdioStream,
    data: Vec<u8>,
}

/// What a reader finds.
pub enum Next {
    /// Output, as frames.
    Frames(Vec<u8>),
    /// Everything was read, and the process has ended so.
    Ended(Exit),
    /// Another reader came.
    TakenOver,
}

impl Log {
    /// Adds what the process wrote.
    pub fn push(&self, kind: StdioStream, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.append(kind, bytes);
        inner.trim();
        drop(inner);
        self.news.send_replace(());
    }

    /// Waits as long as a reader is too far behind.
    pub async fn has_room(&self) {
        let mut room = self.room.subscribe();
        while self.lock().is_full() {
            // An error cannot be: the sender is in `self`.
            let _ = room.changed().await;
        }
    }

    /// Notes the end: nothing is pushed any more.
    pub fn finish(&self, exit: Exit) {
        self.lock().exit = Some(exit);
        self.news.send_replace(());
    }

    /// How the process ended, once all its output is here.
    pub fn exit(&self) -> Option<Exit> {
        self.lock().exit
    }

    /// Whether somebody reads.
    pub fn is_read(&self) -> bool {
        self.lock().reader.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn append(&mut self, kind: StdioStream, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = match self.pieces.back() {
                Some(last) if last.kind == kind => DATA_LIMIT.saturating_sub(last.data.len()),
                _ => 0,
            };
            if room == 0 {
                self.pieces.push_back(Piece {
                    kind,
                    data: Vec::new(),
                });
                self.cost += PIECE_COST;
                continue;
            }
            let (now, later) = rest.split_at(room.min(rest.len()));
            if let Some(last) = self.pieces.back_mut() {
                last.data.extend_from_slice(now);
            }
            self.cost += now.len();
            self.end += now.len() as u64;
            rest = later;
        }
    }

    /// Drops the oldest pieces over the capacity, except what a reader is owed.
    fn trim(&mut self) {
        while self.cost > CAPACITY {
            let Some(first) = self.pieces.front() else {
                return;
            };
            let after = self.start + first.data.len() as u64;
            if self.reader.is_some_and(|position| position < after) {
                return;
            }
            self.start = after;
            self.cost -= first.data.len() + PIECE_COST;
            self.pieces.pop_front();
        }
    }

    fn is_full(&self) -> bool {
        self.reader.is_some() && self.cost > CAPACITY
    }

    /// The next frames for a reader at `position`, and where it is then.
    fn read(&self, position: u64) -> (Vec<u8>, u64) {
        let (mut frames, mut taken) = (Vec::new(), 0);
        let mut piece_start = self.start;
        for piece in &self.pieces {
            let piece_end = piece_start + piece.data.len() as u64;
            if piece_end > position && taken < BATCH {
                let skip = usize::try_from(position.saturating_sub(piece_start)).unwrap_or(0);
                let data = piece.data.get(skip..).unwrap_or_default();
                frames.extend(data_frames(piece.kind, data));
                taken += data.len();
            }
            piece_start = piece_end;
        }
        (frames, position.max(self.start) + taken as u64)
    }
}

/// The one who is attached. Who comes later takes over.
pub struct Reader {
    log: Arc<Log>,
    news: watch::Receiver<()>,
    turn: u64,
    position: u64,
}

impl Reader {
    /// Begins with the oldest byte that is kept; also returns how many bytes
    /// before it no reader was ever given.
    pub fn new(log: Arc<Log>) -> (Self, u64) {
        let mut inner = log.lock();
        inner.turn += 1;
        inner.reader = Some(inner.start);
        let lost = inner.start.saturating_sub(inner.given);
        let (turn, position) = (inner.turn, inner.start);
        drop(inner);
        log.news.send_replace(());
        let news = log.news.subscribe();
        (
            Self {
                log,
                news,
                turn,
                position,
            },
            lost,
        )
    }

    /// Waits for what comes next. Nothing is lost when the wait is given up.
    pub async fn next(&mut self) -> Next {
        loop {
            if let Some(next) = self.look() {
                return next;
            }
            // An error cannot be: the sender is in `self.log`.
            let _ = self.news.changed().await;
        }
    }

    fn look(&mut self) -> Option<Next> {
        let mut inner = self.log.lock();
        if inner.turn != self.turn {
            return Some(Next::TakenOver);
        }
        if self.position == inner.end {
            return inner.exit.map(Next::Ended);
        }
        let (frames, position) = inner.read(self.position);
        self.position = position;
        inner.reader = Some(position);
        inner.given = inner.given.max(position);
        inner.trim();
        drop(inner);
        self.log.room.send_replace(());
        Some(Next::Frames(frames))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut inner = self.log.lock();
        if inner.turn == self.turn {
            inner.reader = None;
            inner.trim();
        }
        drop(inner);
        self.log.room.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inn_wire::frame::FrameDecoder;
    use inn_wire::vsh::{HostMessage, host_message::Msg};

    const OUT: StdioStream = StdioStream::StdoutStream;
    const ERR: StdioStream = StdioStream::StderrStream;

    /// Everything a reader finds until it would wait.
    fn drain(reader: &mut Reader) -> Vec<(StdioStream, Vec<u8>)> {
        let mut decoder = FrameDecoder::new(4096);
        let mut found = Vec::new();
        while let Some(Next::Frames(frames)) = reader.look() {
            decoder.feed(&frames);
            while let Some(message) = decoder.next_message::<HostMessage>().unwrap() {
                let Some(Msg::DataMessage(data)) = message.msg else {
                    panic!("{message:?}");
                };
                found.push((data.stream(), data.data.to_vec()));
            }
        }
        found
    }

    fn length(found: &[(StdioStream, Vec<u8>)]) -> usize {
        found.iter().map(|(_, data)| data.len()).sum()
    }

    #[test]
    fn order_is_kept_and_replayed_to_each_reader() {
        let log = Arc::new(Log::default());
        for (kind, text) in [(OUT, "a"), (OUT, "b"), (ERR, "c"), (OUT, "d")] {
            log.push(kind, text.as_bytes());
        }
        for _ in 0..2 {
            let (mut reader, lost) = Reader::new(Arc::clone(&log));
            assert_eq!(lost, 0);
            assert_eq!(
                drain(&mut reader),
                [
                    (OUT, b"ab".to_vec()),
                    (ERR, b"c".to_vec()),
                    (OUT, b"d".to_vec())
                ]
            );
            log.finish(Exit::Code(3));
            assert!(matches!(reader.look(), Some(Next::Ended(Exit::Code(3)))));
        }
    }

    #[test]
    fn without_a_reader_the_oldest_goes_and_is_counted() {
        let log = Arc::new(Log::default());
        log.push(OUT, &vec![1; 3 * CAPACITY]);
        assert!(!log.lock().is_full());
        let (mut reader, lost) = Reader::new(Arc::clone(&log));
        let kept = length(&drain(&mut reader));
        assert_eq!(kept + usize::try_from(lost).unwrap(), 3 * CAPACITY);
        assert!(kept <= CAPACITY && kept > CAPACITY / 2);
        drop(reader);
        // What somebody saw is not lost when it goes.
        log.push(ERR, b"x");
        assert_eq!(Reader::new(Arc::clone(&log)).1, 0);
    }

    #[test]
    fn a_reader_holds_the_process_up_and_loses_nothing() {
        let log = Arc::new(Log::default());
        let (mut reader, _) = Reader::new(Arc::clone(&log));
        log.push(OUT, &vec![1; 2 * CAPACITY]);
        assert!(log.lock().is_full());
        assert_eq!(length(&drain(&mut reader)), 2 * CAPACITY);
        assert!(!log.lock().is_full());
        log.push(OUT, &vec![1; 2 * CAPACITY]);
        drop(reader);
        assert!(!log.lock().is_full());
    }

    #[test]
    fn the_latest_reader_wins() {
        let log = Arc::new(Log::default());
        let (mut first, _) = Reader::new(Arc::clone(&log));
        let (second, _) = Reader::new(Arc::clone(&log));
        assert!(matches!(first.look(), Some(Next::TakenOver)));
        drop(first);
        assert!(log.is_read());
        drop(second);
        assert!(!log.is_read());
    }

    #[test]
    fn tiny_pieces_cost_more_than_their_bytes() {
        let log = Log::default();
        for _ in 0..CAPACITY {
            log.push(OUT, b"o");
            log.push(ERR, b"e");
        }
        assert!(log.lock().pieces.len() * PIECE_COST <= CAPACITY);
    }
}

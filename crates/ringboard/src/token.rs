// SPDX-License-Identifier: Apache-2.0
//! What the board's thread waits for.

/// See [`inn_reactor::Poller`].
pub(crate) type Poller = inn_reactor::Poller<Token>;
/// See [`inn_reactor::Event`].
pub(crate) type Event = inn_reactor::Event<Token>;
/// See [`inn_reactor::Timers`].
pub(crate) type Timers = inn_reactor::Timers<Token>;

/// What an event or a deadline is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Token {
    /// Another thread queued a command.
    Wake,
    /// Somebody connected to this listener; or it has rested.
    Listener(u64),
    /// A connection; or its other end is late with an answer.
    Connection(u64),
}

const KIND_SHIFT: u32 = 56;

impl inn_reactor::Token for Token {
    fn encode(self) -> u64 {
        // Identities count up one by one and never reach 2^56.
        let (kind, id) = match self {
            Self::Wake => (0, 0),
            Self::Listener(id) => (1, id),
            Self::Connection(id) => (2, id),
        };
        kind << KIND_SHIFT | id
    }

    fn decode(data: u64) -> Option<Self> {
        let id = data & ((1 << KIND_SHIFT) - 1);
        Some(match data >> KIND_SHIFT {
            0 => Self::Wake,
            1 => Self::Listener(id),
            2 => Self::Connection(id),
            _ => return None,
        })
    }
}

// SPDX-License-Identifier: Apache-2.0
//! What the device's thread waits for.

/// See [`inn_reactor::Poller`].
pub type Poller = inn_reactor::Poller<Token>;
/// See [`inn_reactor::Event`].
pub type Event = inn_reactor::Event<Token>;
/// See [`inn_reactor::Timers`].
pub type Timers = inn_reactor::Timers<Token>;

/// What an event is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Token {
    /// Another thread queued a command.
    Wake,
    /// QEMU sent a vhost-user message or hung up.
    Vhost,
    /// The guest kicked this queue.
    Kick(u8),
    /// A client connected to this listener.
    Listener(u64),
    /// A client that has not finished its `CONNECT` line.
    Handshake(u64),
    /// The local socket of a stream.
    Stream(u64),
}

const KIND_SHIFT: u32 = 56;

impl inn_reactor::Token for Token {
    fn encode(self) -> u64 {
        // Identities count up from zero one by one and never reach 2^56.
        let (kind, id) = match self {
            Self::Wake => (0, 0),
            Self::Vhost => (1, 0),
            Self::Kick(index) => (2, u64::from(index)),
            Self::Listener(id) => (3, id),
            Self::Handshake(id) => (4, id),
            Self::Stream(id) => (5, id),
        };
        kind << KIND_SHIFT | id
    }

    fn decode(data: u64) -> Option<Self> {
        let id = data & ((1 << KIND_SHIFT) - 1);
        Some(match data >> KIND_SHIFT {
            0 => Self::Wake,
            1 => Self::Vhost,
            2 => Self::Kick(u8::try_from(id).ok()?),
            3 => Self::Listener(id),
            4 => Self::Handshake(id),
            5 => Self::Stream(id),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use inn_reactor::Token as _;

    use super::*;

    #[test]
    fn tokens_survive_epoll() {
        for token in [
            Token::Wake,
            Token::Vhost,
            Token::Kick(2),
            Token::Listener(9),
            Token::Handshake(1 << 40),
            Token::Stream((1 << 56) - 1),
        ] {
            assert_eq!(Token::decode(token.encode()), Some(token));
        }
        assert_eq!(Token::decode(u64::MAX), None);
    }
}

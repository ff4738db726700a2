// SPDX-License-Identifier: Apache-2.0
//! Any bytes as a list of calls by a handful of hostile domains.
//!
//! Most of what is chosen is likely to meet: few ports, small rings, one domain
//! that most send to. A script of evenly drawn numbers hardly ever has two
//! senders wait for the same ring.

/// Ids of the domains that a script makes and ends, from 0 on.
pub const DOMAINS: u16 = 5;

/// An endpoint: a domain's id and which of its endpoints.
pub type Who = (u16, u8);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    Create {
        id: u16,
        enabled: bool,
    },
    Destroy {
        id: u16,
    },
    Close {
        who: Who,
    },
    Bind {
        who: Who,
        port: u32,
    },
    Unbind {
        who: Who,
        port: u32,
    },
    Register {
        who: Who,
        port: u32,
        partner: u16,
        len: u32,
        pages: u32,
        flags: u32,
        pad: u16,
    },
    Unregister {
        who: Who,
        port: u32,
        partner: u16,
        pad: u16,
    },
    Send {
        who: Who,
        claims: u16,
        from: u32,
        to: u16,
        port: u32,
        pieces: Vec<Part>,
        kind: u32,
        pad: u16,
    },
    Notify {
        who: Who,
        entries: Vec<(u16, u32, u32)>,
    },
    Receive {
        who: Who,
        port: u32,
        partner: u16,
    },
    Discard {
        who: Who,
        port: u32,
        partner: u16,
        bytes: u32,
    },
    Permissive {
        on: bool,
    },
    Policy {
        seed: u8,
    },
}

/// A piece: its length, and whether it can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    pub len: u32,
    pub readable: bool,
}

/// Numbers off the input; zeros after its end.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    fn id(&mut self) -> u16 {
        match self.byte() {
            250.. => 0x7FF4,
            240.. => 0x7FF0,
            byte => u16::from(byte) % DOMAINS,
        }
    }

    fn who(&mut self) -> Who {
        let byte = self.byte();
        (u16::from(byte & 0x7F) % DOMAINS, byte >> 7)
    }

    /// Mostly the first domain, which has rings from the beginning.
    fn target(&mut self) -> u16 {
        match self.byte() {
            0..=200 => 0,
            _ => self.id(),
        }
    }

    fn port(&mut self) -> u32 {
        u32::from(self.byte() / 100)
    }

    /// Mostly the one that the endpoint owns from the beginning.
    fn source(&mut self, who: Who) -> u32 {
        match self.byte() {
            0..=230 => u32::from(who.1),
            byte => u32::from(byte % 3),
        }
    }

    /// Mostly small, now and then anything.
    fn len(&mut self) -> u32 {
        match self.byte() {
            255 => self.word(),
            254 => 0x100_0000 - u32::from(self.byte()),
            byte @ ..200 => u32::from(byte % 48),
            byte => u32::from(byte),
        }
    }

    fn ring_len(&mut self) -> u32 {
        const USUAL: [u32; 6] = [48, 64, 96, 144, 256, 1024];
        match self.byte() {
            byte @ 0..240 => USUAL[usize::from(byte) % USUAL.len()],
            _ => self.len(),
        }
    }

    fn partner(&mut self) -> u16 {
        if self.byte() % 2 == 0 {
            0x7FF4
        } else {
            self.id()
        }
    }

    /// Almost always zero.
    fn rarely(&mut self) -> u16 {
        u16::from(self.byte() == 7)
    }

    fn parts(&mut self) -> Vec<Part> {
        let count = match self.byte() {
            byte @ 250.. => byte - 242,
            byte => byte % 4,
        };
        let part = |_| Part {
            len: self.len(),
            readable: self.byte() != 1,
        };
        (0..count).map(part).collect()
    }

    fn op(&mut self) -> Op {
        let choice = self.byte();
        let mut who = self.who();
        // Most readers are the first domain's first endpoint.
        if (20..=29).contains(&(choice % 32)) && choice < 200 {
            who = (0, 0);
        }
        match choice % 32 {
            0..=4 if choice >= 96 => self.send(who),
            30.. if choice >= 64 => self.send(who),
            0 => Op::Create {
                id: self.id(),
                enabled: self.byte() % 8 != 0,
            },
            1 => Op::Destroy { id: self.id() },
            2 => Op::Close { who },
            3 => Op::Bind {
                who,
                port: self.port(),
            },
            4 => Op::Unbind {
                who,
                port: self.port(),
            },
            5..=8 => self.register(who),
            9 => Op::Unregister {
                who,
                port: self.port(),
                partner: self.partner(),
                pad: self.rarely(),
            },
            10..=17 => self.send(who),
            18..=22 => {
                let count = match self.byte() {
                    255 => 257,
                    byte => u16::from(byte % 4),
                };
                let entry = |_| (self.target(), self.port(), self.len());
                Op::Notify {
                    who,
                    entries: (0..count).map(entry).collect(),
                }
            }
            23..=28 => Op::Receive {
                who,
                port: self.port(),
                partner: self.partner(),
            },
            29 => Op::Discard {
                who,
                port: self.port(),
                partner: self.partner(),
                bytes: self.len().wrapping_mul(16),
            },
            30 => Op::Permissive {
                on: self.byte() % 4 != 0,
            },
            _ => Op::Policy {
                seed: self.byte() % 16,
            },
        }
    }

    fn send(&mut self, who: Who) -> Op {
        Op::Send {
            who,
            claims: if self.byte() == 3 { self.id() } else { who.0 },
            from: self.source(who),
            to: self.target(),
            port: self.port(),
            pieces: self.parts(),
            kind: u32::from(self.byte()),
            pad: self.rarely(),
        }
    }

    fn register(&mut self, who: Who) -> Op {
        let len = self.ring_len();
        let right = inn_rings::abi::pages(len);
        Op::Register {
            who,
            port: self.port(),
            partner: self.partner(),
            len,
            pages: right.wrapping_add(self.rarely().into()),
            flags: if self.byte() >= 250 { self.len() } else { 0 },
            pad: self.rarely(),
        }
    }
}

/// The calls that these bytes say. All domains are there first, each endpoint
/// owns a port, and the first one has rings.
pub fn decode(bytes: &[u8]) -> Vec<Op> {
    let mut input = Input(bytes);
    let mut ops: Vec<_> = (0..DOMAINS)
        .map(|id| Op::Create { id, enabled: true })
        .collect();
    for id in 0..DOMAINS {
        for letter in 0..2 {
            let port = letter.into();
            ops.push(Op::Bind {
                who: (id, letter),
                port,
            });
        }
    }
    for (letter, partner) in [(0, 0x7FF4), (0, 1), (1, 0x7FF4)] {
        let len = input.ring_len();
        let pages = inn_rings::abi::pages(len);
        let port = letter.into();
        let (flags, pad) = (0, 0);
        ops.push(Op::Register {
            who: (0, letter),
            port,
            partner,
            len,
            pages,
            flags,
            pad,
        });
    }
    while !input.0.is_empty() {
        ops.push(input.op());
    }
    ops
}

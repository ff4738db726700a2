// SPDX-License-Identifier: Apache-2.0
//! The board: who is connected, who they are to the mediator, what they hold.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use inn_rings::{Domain, Endpoint, Errno, Event, Mediator, Settings};
use inn_ringwire::{Notice, Request, What, encode_notice};

use crate::audit::{Audit, Decisions};
use crate::connection::{Connection, Role};
use crate::listeners::Listener;
use crate::table::{HOST, Rules, Table};
use crate::token::{Poller, Timers, Token};

/// Bytes that the connections of one domain hold together, read and not yet
/// dealt with or waiting to be read. Whoever exceeds it is closed.
const MAX_HELD: usize = 32 << 20;
/// Bytes read at once.
const SCRATCH: usize = 64 << 10;

/// Where an endpoint sits.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seat {
    /// At this connection.
    Client(u64),
    /// Behind this link, with the peer's number.
    StandIn(u64, u32),
}

/// Another guest that lives, as far as links tell.
#[derive(Debug)]
pub(crate) struct Far {
    pub(crate) domain: Domain,
    pub(crate) incoming: Option<u64>,
    pub(crate) outgoing: Option<u64>,
}

/// The answers to one notify, of which some come from other keepers.
#[derive(Debug)]
pub(crate) struct Gather {
    pub(crate) client: u64,
    pub(crate) tag: u32,
    pub(crate) entries: Vec<inn_rings::abi::RingData>,
    /// Links that have not answered.
    pub(crate) left: usize,
}

/// Everything the board's thread owns.
pub(crate) struct Board {
    pub(crate) poller: Poller,
    pub(crate) timers: Timers,
    pub(crate) guest: Domain,
    pub(crate) host: Domain,
    pub(crate) mediator: Mediator<Arc<Table>>,
    pub(crate) table: Arc<Table>,
    pub(crate) audit: Audit,
    pub(crate) seats: HashMap<Endpoint, Seat>,
    pub(crate) connections: HashMap<u64, Connection>,
    pub(crate) listeners: HashMap<u64, Listener>,
    pub(crate) fars: BTreeMap<u16, Far>,
    pub(crate) gathers: HashMap<u64, Gather>,
    /// Connections that have more to do.
    pub(crate) queue: VecDeque<u64>,
    /// Connections that wait for a link.
    pub(crate) blocked: Vec<u64>,
    /// A link has answered, has taken bytes or has gone.
    pub(crate) links_moved: bool,
    /// Connections with something to send or to count.
    dirty: Vec<u64>,
    held: HashMap<u16, usize>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) answer_timeout: Duration,
    next_id: u64,
}

impl Board {
    /// A board for the guest with this id, where nothing is allowed yet.
    pub(crate) fn new(guest: u16, decisions: Arc<Decisions>) -> io::Result<Self> {
        let table = Arc::new(Table {
            guest,
            rules: Rules::default(),
        });
        let mut mediator = Mediator::new(table.clone(), Settings::default());
        let refused = |error: Errno| io::Error::from_raw_os_error(error.number());
        let host = mediator.create_domain(HOST, true).map_err(refused)?;
        let own = mediator.create_domain(guest, true).map_err(refused)?;
        Ok(Self {
            poller: Poller::new()?,
            timers: Timers::default(),
            guest: own,
            host,
            mediator,
            table,
            audit: Audit::new(decisions),
            seats: HashMap::new(),
            connections: HashMap::new(),
            listeners: HashMap::new(),
            fars: BTreeMap::new(),
            gathers: HashMap::new(),
            queue: VecDeque::new(),
            blocked: Vec::new(),
            links_moved: false,
            dirty: Vec::new(),
            held: HashMap::new(),
            scratch: vec![0; SCRATCH],
            answer_timeout: Duration::from_secs(10),
            next_id: 0,
        })
    }

    pub(crate) fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Whether what each domain holds is what its connections hold.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn accounts_are_right(&self) -> bool {
        let mut sums: HashMap<u16, usize> = HashMap::new();
        for one in self.connections.values() {
            *sums.entry(group(&one.role)).or_default() += one.held();
        }
        self.held
            .iter()
            .all(|(id, held)| sums.get(id).copied().unwrap_or(0) == *held)
            && self.held.values().all(|held| *held <= MAX_HELD)
    }

    /// Serves a connection from now on.
    pub(crate) fn add(&mut self, socket: OwnedFd, role: Role) -> Option<u64> {
        let id = self.new_id();
        self.poller.add_edge(&socket, Token::Connection(id)).ok()?;
        self.connections.insert(id, Connection::new(socket, role));
        self.queue_up(id);
        Some(id)
    }

    /// Gives a connection a turn.
    pub(crate) fn queue_up(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            if !connection.queued {
                connection.queued = true;
                self.queue.push_back(id);
            }
        }
    }

    /// What a connection holds has changed.
    pub(crate) fn touch(&mut self, id: u64) {
        self.dirty.push(id);
    }

    /// Ends a connection with all that was its own.
    pub(crate) fn hang_up(&mut self, id: u64) {
        let Some(mut gone) = self.connections.remove(&id) else {
            return;
        };
        self.poller.remove(&gone.socket);
        let token = Token::Connection(id);
        self.timers.set(&mut gone.deadline, token, None);
        let group = group(&gone.role);
        if let Some(held) = self.held.get_mut(&group) {
            *held = held.saturating_sub(gone.counted);
        }
        match gone.role {
            Role::Client(client) => {
                self.seats.remove(&client.endpoint);
                self.mediator.close_endpoint(client.endpoint);
                self.leave_links(id);
            }
            Role::Incoming { peer, stand_ins } => {
                for endpoint in stand_ins.values() {
                    self.seats.remove(endpoint);
                }
                self.end_life(peer);
            }
            Role::Outgoing(link) => {
                self.links_moved = true;
                let peer = link.peer;
                self.fail_link(link);
                self.end_life(peer);
            }
        }
        self.deliver();
    }

    /// Tells the other keepers that a client of ours is gone.
    fn leave_links(&mut self, id: u64) {
        let links: Vec<_> = self.fars.values().filter_map(|far| far.outgoing).collect();
        for link_id in links {
            let Some(connection) = self.connections.get_mut(&link_id) else {
                continue;
            };
            let Role::Outgoing(link) = &mut connection.role else {
                continue;
            };
            if link.users.remove(&id) {
                link.waits.retain(|(client, _)| *client != id);
                Request::Gone(number(id)).encode(connection.output(), 0);
                self.dirty.push(link_id);
            }
        }
    }

    /// Tells everybody what the mediator has for them.
    pub(crate) fn deliver(&mut self) {
        let events = self.mediator.take_events();
        if !events.is_empty() {
            self.tell(events);
        }
    }

    /// Tells everybody these events.
    pub(crate) fn tell(&mut self, events: Vec<Event>) {
        for event in events {
            let (ring, what) = match event {
                Event::Arrival { ring, .. } => (ring, What::Arrival),
                Event::Space { ring, .. } => (ring, What::Space),
                Event::Closed { ring, .. } => (ring, What::Closed),
            };
            let Some(&seat) = self.seats.get(&event.to()) else {
                continue;
            };
            let (Seat::Client(id) | Seat::StandIn(id, _)) = seat;
            let Some(connection) = self.connections.get_mut(&id) else {
                continue;
            };
            if let Role::Client(client) = &mut connection.role {
                match what {
                    What::Arrival if !client.told.insert(ring) => continue,
                    What::Closed => drop(client.told.remove(&ring)),
                    What::Arrival | What::Space => {}
                }
            }
            let notice = Notice {
                port: ring.port,
                partner: ring.partner_id(),
                owner: ring.owner.id(),
                what,
            };
            let endpoint = match seat {
                Seat::Client(_) => None,
                Seat::StandIn(_, number) => Some(number),
            };
            encode_notice(connection.output(), endpoint, &notice);
            self.dirty.push(id);
        }
    }

    /// Sends what there is to send, counts what is held, and lets those go on
    /// who waited for a link.
    pub(crate) fn settle(&mut self) {
        while !self.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            dirty.sort_unstable();
            dirty.dedup();
            for id in dirty {
                self.settle_one(id);
            }
        }
        if std::mem::take(&mut self.links_moved) {
            for id in std::mem::take(&mut self.blocked) {
                self.queue_up(id);
            }
        }
    }

    fn settle_one(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else {
            return;
        };
        connection.flush();
        if let Role::Outgoing(link) = &connection.role {
            self.links_moved = true;
            if connection.deadline.is_none() && !link.pending.is_empty() {
                let slot = &mut connection.deadline;
                let token = Token::Connection(id);
                self.timers.set(slot, token, Some(self.answer_timeout));
            }
        }
        let held = self.held.entry(group(&connection.role)).or_default();
        *held = held.saturating_sub(connection.counted);
        connection.counted = connection.held();
        *held += connection.counted;
        let said_all = connection.closing && (connection.mute || connection.unsent() == 0);
        if said_all || *held > MAX_HELD {
            self.hang_up(id);
        }
    }
}

/// The domain whose bytes these are.
fn group(role: &Role) -> u16 {
    match role {
        Role::Client(client) => client.endpoint.domain().id(),
        Role::Incoming { peer, .. } => *peer,
        Role::Outgoing(link) => link.peer,
    }
}

/// The number by which other keepers know a client of ours.
pub(crate) fn number(id: u64) -> u32 {
    // They count up one by one; nobody makes four billion connections.
    u32::try_from(id).unwrap_or(u32::MAX)
}

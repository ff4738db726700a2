// SPDX-License-Identifier: Apache-2.0
//! What must hold for any calls: against a second engine, and by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use inn_rings::abi::{Address, DOMID_ANY, RegisterRing, cost};
use inn_rings::{AllowAll, Domain, Endpoint, Errno, Event, Mediator, Outgoing, Piece, Settings};
use proptest::prelude::*;

const PORT: u32 = 7;

/// One reader with a wildcard ring, and senders.
struct Scene {
    mediator: Mediator<AllowAll>,
    reader: Endpoint,
    senders: Vec<Endpoint>,
}

impl Scene {
    fn new(senders: u16, ring_len: u32, percent: u8) -> Self {
        let settings = Settings {
            mac_permissive: true,
            wildcard_quota_percent: percent,
            ..Settings::default()
        };
        let mut mediator = Mediator::new(AllowAll, settings);
        let mut all: Vec<_> = (0..=senders).map(|id| enter(&mut mediator, id)).collect();
        let reader = all.remove(0);
        let call = RegisterRing::new(PORT, DOMID_ANY, ring_len);
        mediator.register_ring(reader, &call).unwrap();
        Self {
            mediator,
            reader,
            senders: all,
        }
    }

    fn send(&mut self, sender: usize, pieces: &[Piece<'_>]) -> Result<u32, Errno> {
        let call = Outgoing {
            source: Address::new(DOMID_ANY, PORT),
            destination: Address::new(self.reader.domain().id(), PORT),
            pieces,
            message_type: 0,
        };
        self.mediator.sendv(self.senders[sender], &call)
    }

    /// Reads a message: who sent it, and its payload.
    fn read(&mut self) -> Option<(Domain, Vec<u8>)> {
        let message = self
            .mediator
            .receive(self.reader, PORT, DOMID_ANY)
            .unwrap()?;
        Some((message.sender, message.payload))
    }

    fn used(&self) -> u32 {
        self.mediator.rings().map(|ring| ring.used).sum()
    }
}

fn enter(mediator: &mut Mediator<AllowAll>, id: u16) -> Endpoint {
    let domain = mediator.create_domain(id, true).unwrap();
    let endpoint = mediator.open_endpoint(domain).unwrap();
    mediator.bind(endpoint, PORT).unwrap();
    endpoint
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Results, events, messages and room, call by call, are those of an engine
    /// that keeps nothing but lists.
    #[test]
    fn both_engines_agree(script in prop::collection::vec(any::<u8>(), 0..1500), percent in 1u8..=100) {
        model::compare::compare(percent, &model::script::decode(&script));
    }

    /// A message is there with all its pieces or not at all, in whichever way
    /// it is refused.
    #[test]
    fn all_or_nothing(
        sizes in prop::collection::vec((0usize..400, prop::bool::weighted(0.9)), 0..10),
        before in 0usize..500,
        ring_slots in 3u32..60,
    ) {
        let mut scene = Scene::new(1, ring_slots * 16, 100);
        let _ = scene.send(0, &[Piece::Bytes(&vec![1; before])]);
        let used = scene.used();
        let bytes: Vec<Vec<u8>> = sizes.iter().enumerate().map(|(at, (len, _))| vec![at as u8; *len]).collect();
        let pieces: Vec<_> = (sizes.iter().zip(&bytes))
            .map(|((len, good), bytes)| if *good { Piece::Bytes(bytes) } else { Piece::Unreadable(*len as u32) })
            .collect();
        let result = scene.send(0, &pieces);
        let whole = bytes.concat();
        match result {
            Ok(len) => {
                prop_assert_eq!(len as usize, whole.len());
                prop_assert_eq!(scene.used(), used + cost(len));
                if used > 0 {
                    scene.read().unwrap();
                }
                prop_assert_eq!(scene.read().unwrap().1, whole);
            }
            Err(_) => {
                prop_assert_eq!(scene.used(), used);
                if used > 0 {
                    scene.read().unwrap();
                }
                prop_assert!(scene.read().is_none());
            }
        }
        prop_assert_eq!(scene.used(), 0);
    }

    /// What was taken arrives once, in its sender's order, and the room it took
    /// is that of its slots.
    #[test]
    fn nothing_is_lost_doubled_or_swapped(
        moves in prop::collection::vec((0usize..5, 0usize..120), 1..400),
        percent in 20u8..=100,
        ring_slots in 10u32..80,
    ) {
        let mut scene = Scene::new(4, ring_slots * 16, percent);
        let mut taken: BTreeMap<Domain, VecDeque<Vec<u8>>> = BTreeMap::new();
        let mut used = 0;
        for (number, (who, len)) in moves.into_iter().enumerate() {
            if who == 4 {
                if let Some((sender, payload)) = scene.read() {
                    used -= cost(payload.len() as u32);
                    prop_assert_eq!(taken.get_mut(&sender).unwrap().pop_front(), Some(payload));
                }
                continue;
            }
            let mut payload = number.to_le_bytes().to_vec();
            payload.resize(8 + len, who as u8);
            if scene.send(who, &[Piece::Bytes(&payload)]).is_ok() {
                used += cost(payload.len() as u32);
                taken.entry(scene.senders[who].domain()).or_default().push_back(payload);
            }
            prop_assert_eq!(scene.used(), used);
            prop_assert!(used <= ring_slots * 16 - 16);
        }
        while let Some((sender, payload)) = scene.read() {
            prop_assert_eq!(taken.get_mut(&sender).unwrap().pop_front(), Some(payload));
        }
        prop_assert!(taken.values().all(VecDeque::is_empty));
    }

    /// Whoever gets an id again starts as if nobody had it before: no room
    /// taken, no place in a line, no port, no ring.
    #[test]
    fn a_new_life_inherits_nothing(sizes in prop::collection::vec(0usize..200, 1..40)) {
        let mut scene = Scene::new(2, 1024, 50);
        let old = scene.senders[0];
        let ring = RegisterRing::new(1, DOMID_ANY, 64);
        scene.mediator.register_ring(old, &ring).unwrap();
        let partner = RegisterRing::new(2, old.domain().id(), 64);
        scene.mediator.register_ring(scene.senders[1], &partner).unwrap();
        for len in sizes {
            let _ = scene.send(0, &[Piece::Bytes(&vec![0; len])]);
        }
        let full = scene.send(0, &[Piece::Bytes(&[0; 480])]);
        scene.mediator.destroy_domain(old.domain());
        scene.mediator.take_events();
        let new = scene.mediator.create_domain(old.domain().id(), true).unwrap();
        let new = scene.mediator.open_endpoint(new).unwrap();

        prop_assert_eq!(scene.send(0, &[]), Err(Errno::Enodev), "the old one calls");
        scene.senders[0] = new;
        prop_assert_eq!(scene.send(0, &[]), Err(Errno::Eperm), "its port");
        prop_assert_eq!(scene.mediator.rings().count(), 1, "its rings, and those for it");
        prop_assert!(scene.mediator.rings().all(|ring| ring.waiting == 0), "its place");
        scene.mediator.bind(new, PORT).unwrap();
        if full.is_err() {
            prop_assert!(scene.send(0, &[Piece::Bytes(&[0; 480])]).is_ok(), "its quota");
        }
        scene.mediator.wake(scene.reader).unwrap();
        prop_assert!(!scene.mediator.take_events().iter().any(|event| event.to() == old));
    }

}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// One who waits for the room of a large message gets it, whatever others
    /// who try all the time do, and however slow it is.
    #[test]
    fn nobody_starves(
        greed in prop::collection::vec((0usize..4, 0usize..500), 3000),
        patience in 1usize..40,
    ) {
        let mut scene = Scene::new(5, 1024, 50);
        let honest = 4;
        let (mut waits, mut told_at, mut done, mut last_done) = (false, None, 0, 0);
        for (now, (who, len)) in greed.into_iter().enumerate() {
            // Greedy senders try twice for each message that is read.
            let _ = scene.send(who, &[Piece::Bytes(&vec![0; len])]);
            let _ = scene.send((who + 1) % 4, &[Piece::Bytes(&vec![0; len])]);
            scene.read();
            scene.mediator.wake(scene.reader).unwrap();
            for event in scene.mediator.take_events() {
                if matches!(event, Event::Space { to, .. } if to == scene.senders[honest]) {
                    told_at = told_at.or(Some(now));
                }
            }
            if waits && told_at.is_none_or(|then| now - then < patience) {
                continue;
            }
            match scene.send(honest, &[Piece::Bytes(&[1; 480])]) {
                Ok(_) => (waits, done, last_done) = (false, done + 1, now),
                Err(error) => {
                    prop_assert_eq!(error, Errno::Eagain);
                    waits = true;
                }
            }
            told_at = None;
            prop_assert!(now - last_done < 200 + 4 * patience, "starved at {now} after {done}");
        }
        prop_assert!(done > 0);
    }
}

/// Silence of one who was woken must not close the ring to others.
#[test]
fn one_who_waits_and_never_sends_closes_nothing() {
    let mut scene = Scene::new(3, 256, 50);
    let message = [Piece::Bytes(&[0; 96])];
    for sender in [0, 2] {
        scene.send(sender, &message).unwrap();
    }
    assert_eq!(
        scene.send(1, &message),
        Err(Errno::Eagain),
        "the silent one"
    );
    let mut sent = 0;
    for _ in 0..100 {
        sent += u32::from(scene.send(2, &message).is_ok());
        scene.read();
        scene.mediator.wake(scene.reader).unwrap();
    }
    assert!(sent > 40, "{sent} of 100");
}

/// Inputs that led the fuzzer to different places, on any compiler.
#[test]
fn both_engines_agree_on_the_fuzzers_corpus() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/calls");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(entry.unwrap().path()).unwrap();
        model::compare::compare_bytes(&bytes);
        count += 1;
    }
    assert!(count > 50);
}

#[test]
fn limits_of_endpoints_ports_and_domains() {
    let settings = Settings {
        max_domains: 2,
        max_endpoints: 3,
        max_ports: 4,
        ..Settings::default()
    };
    let mut mediator = Mediator::new(AllowAll, settings);
    let domain = mediator.create_domain(1, true).unwrap();
    mediator.create_domain(2, true).unwrap();
    assert_eq!(mediator.create_domain(3, true), Err(Errno::Enospc));
    let endpoint = mediator.open_endpoint(domain).unwrap();
    mediator.open_endpoint(domain).unwrap();
    mediator.open_endpoint(domain).unwrap();
    assert_eq!(mediator.open_endpoint(domain), Err(Errno::Emfile));
    let ports: BTreeSet<_> = (0..4)
        .map(|_| mediator.bind_any(endpoint).unwrap())
        .collect();
    assert_eq!(ports.len(), 4);
    assert!(ports.iter().all(|&port| port >= 0x8000_0000));
    assert_eq!(mediator.bind_any(endpoint), Err(Errno::Enospc));
    let ring = RegisterRing::new(1, 2, 64);
    assert_eq!(mediator.register_ring(endpoint, &ring), Err(Errno::Enospc));
    mediator.close_endpoint(endpoint);
    assert_eq!(mediator.bind(endpoint, 1), Err(Errno::Enodev));
    mediator.open_endpoint(domain).unwrap();
}

#[test]
fn slots_are_read_as_far_as_they_fit() {
    let mut scene = Scene::new(1, 1024, 100);
    for len in [1, 20, 3] {
        scene.send(0, &[Piece::Bytes(&vec![9; len])]).unwrap();
    }
    let mut bytes = vec![];
    let reader = scene.reader;
    let mut read = |max, bytes: &mut Vec<u8>| {
        scene
            .mediator
            .receive_slots(reader, PORT, DOMID_ANY, max, bytes)
    };
    assert_eq!(read(31, &mut bytes), Err(Errno::Emsgsize));
    assert_eq!(read(32 + 48 + 31, &mut bytes), Ok(2));
    assert_eq!(bytes.len(), 32 + 48);
    assert_eq!(read(u32::MAX, &mut bytes), Ok(1));
    assert_eq!(read(0, &mut bytes), Ok(0));
    assert_eq!(bytes.len(), 32 + 48 + 32);
}

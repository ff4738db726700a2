// SPDX-License-Identifier: Apache-2.0
//! What the engine alone costs for each message; a measurement, no check:
//!
//! ```text
//! cargo test --release --target-dir target/host -p inn-rings --test throughput -- --ignored --nocapture
//! ```
#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use inn_rings::abi::{Address, DOMID_ANY, RegisterRing};
use inn_rings::{AllowAll, Endpoint, Mediator, Outgoing, Piece, Settings};

const PORT: u32 = 7;
const RING: u32 = 1 << 20;
const FOR: Duration = Duration::from_secs(1);

fn enter(mediator: &mut Mediator<AllowAll>, id: u16) -> Endpoint {
    let domain = mediator.create_domain(id, true).unwrap();
    let endpoint = mediator.open_endpoint(domain).unwrap();
    mediator.bind(endpoint, PORT).unwrap();
    endpoint
}

/// Messages a second, sent until the ring is full, read until it is empty.
fn rate(partner: u16, payload: usize) -> f64 {
    let settings = Settings {
        mac_permissive: true,
        ..Settings::default()
    };
    let mut mediator = Mediator::new(AllowAll, settings);
    let reader = enter(&mut mediator, 1);
    let sender = enter(&mut mediator, 2);
    let ring = RegisterRing::new(PORT, partner, RING);
    mediator.register_ring(reader, &ring).unwrap();
    let bytes = vec![1; payload];
    let call = Outgoing {
        source: Address::new(2, PORT),
        destination: Address::new(1, PORT),
        pieces: &[Piece::Bytes(&bytes)],
        message_type: 0,
    };
    let (begin, mut count) = (Instant::now(), 0);
    let mut slots = Vec::with_capacity(RING as usize);
    while begin.elapsed() < FOR {
        while mediator.sendv(sender, &call).is_ok() {
            mediator.take_events();
        }
        slots.clear();
        count += mediator
            .receive_slots(reader, PORT, partner, RING, &mut slots)
            .unwrap();
        mediator.wake(reader).unwrap();
        mediator.take_events();
    }
    count as f64 / begin.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a measurement of some seconds"]
fn messages_a_second() {
    for (kind, partner) in [("partner", 2), ("wildcard", DOMID_ANY)] {
        for payload in [16, 1024, 65536] {
            let rate = rate(partner, payload);
            let mebibytes = rate * payload as f64 / f64::from(1 << 20);
            println!("{kind:8} {payload:6} B: {rate:9.0} messages/s, {mebibytes:6.0} MiB/s");
        }
    }
}

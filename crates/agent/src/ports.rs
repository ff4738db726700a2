// SPDX-License-Identifier: Apache-2.0
//! Which ports programs of the guest listen on, from /proc/net. Four small
//! files: reading them costs less than keeping a netlink library.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// More than a guest should ever listen on; what is over it is not told.
pub const MAX_PORTS: usize = 1024;

/// Bytes read of one table: a guest with a million connections has a long one.
const MAX_TABLE: u64 = 4 << 20;

/// `TCP_LISTEN`, and what the kernel shows for an unconnected UDP socket.
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// The transport protocol of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// A listening stream socket.
    Tcp,
    /// A datagram socket without a peer.
    Udp,
}

/// One address that somebody listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its protocol.
    pub protocol: Protocol,
    /// Its number.
    pub number: u16,
    /// The local address; unspecified means all.
    pub address: IpAddr,
}

impl Port {
    /// Whether only the guest itself reaches it.
    pub fn is_loopback(&self) -> bool {
        self.address.to_canonical().is_loopback()
    }
}

/// What is listened on now, at most [`MAX_PORTS`] of it, in order.
pub fn listening() -> Vec<Port> {
    let mut found = BTreeSet::new();
    for (name, protocol, state) in [
        ("tcp", Protocol::Tcp, LISTENING),
        ("tcp6", Protocol::Tcp, LISTENING),
        ("udp", Protocol::Udp, UNCONNECTED),
        ("udp6", Protocol::Udp, UNCONNECTED),
    ] {
        // A kernel without IPv6 has no such file.
        if let Ok(file) = File::open(format!("/proc/net/{name}")) {
            read_table(file.take(MAX_TABLE), protocol, state, &mut found);
        }
    }
    found.into_iter().collect()
}

fn read_table(table: impl Read, protocol: Protocol, state: &str, found: &mut BTreeSet<Port>) {
    for line in BufReader::new(table).lines().skip(1) {
        let Ok(line) = line else { return };
        if found.len() >= MAX_PORTS {
            return;
        }
        found.extend(parse(&line, protocol, state));
    }
}

/// A line is `sl: ADDRESS:PORT PEER:PORT STATE ...`, numbers in hexadecimal.
fn parse(line: &str, protocol: Protocol, wanted: &str) -> Option<Port> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let (local, _, state) = (words.next()?, words.next()?, words.next()?);
    if state != wanted {
        return None;
    }
    let (address, number) = local.split_once(':')?;
    let number = u16::from_str_radix(number, 16).ok().filter(|n| *n != 0)?;
    Some(Port {
        protocol,
        number,
        address: parse_address(address)?,
    })
}

/// The kernel prints each 32 bits as a number of its own byte order.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |index: usize| {
        let digits = text.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (index, target) in bytes.chunks_exact_mut(4).enumerate() {
                target.copy_from_slice(&word(index)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0
   2: 0100007F:9C40 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0
   3: nonsense
   4: 0100007F:0000 00000000:0000 0A
";

    #[test]
    #[cfg(target_endian = "little")]
    fn tables() {
        let mut found = BTreeSet::new();
        read_table(TABLE.as_bytes(), Protocol::Tcp, LISTENING, &mut found);
        let found: Vec<_> = found
            .iter()
            .map(|port| (port.number, port.address.to_string(), port.is_loopback()))
            .collect();
        assert_eq!(
            found,
            [
                (80, "0.0.0.0".to_owned(), false),
                (8080, "127.0.0.1".to_owned(), true)
            ]
        );
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_version_6() {
        let one = parse_address("00000000000000000000000001000000").unwrap();
        assert_eq!(one.to_string(), "::1");
        let mapped = parse_address("0000000000000000FFFF00000100007F").unwrap();
        assert_eq!(mapped.to_string(), "::ffff:127.0.0.1");
        assert_eq!(parse_address("ü000000"), None);
    }

    #[test]
    fn own_listener_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let wanted = |port: &&Port| port.protocol == Protocol::Tcp && port.number == number;
        let found = listening();
        assert!(found.iter().find(wanted).is_some_and(Port::is_loopback));
    }
}

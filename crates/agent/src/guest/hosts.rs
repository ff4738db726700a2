// SPDX-License-Identifier: Apache-2.0
//! Names of machines, from `/etc/hosts`. Not getaddrinfo: a static program would
//! load the guest's own libnss modules, which belong to another libc.

use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::Path;

/// Bytes read of the file; somebody's list of advertisers is longer.
const MAX_BYTES: u64 = 4 << 20;
/// Names that an error lists.
const LISTED: usize = 8;

const HOST_CID: u32 = 2;
const LOCAL_CID: u32 = 1;
/// What names of the topology end with.
const SUFFIX: &str = ".inn";

/// The lines of `/etc/hosts`.
#[derive(Debug, Default)]
pub struct Hosts(String);

impl Hosts {
    /// What the file says now; nothing where it cannot be read.
    pub fn read() -> Self {
        let mut text = String::new();
        let _ = File::open(Path::new("/etc/hosts"))
            .and_then(|file| file.take(MAX_BYTES).read_to_string(&mut text));
        Self(text)
    }

    /// As if the file said this.
    #[cfg(test)]
    pub fn parse(text: &str) -> Self {
        Self(text.to_owned())
    }

    fn entries(&self) -> impl Iterator<Item = (IpAddr, &str)> {
        self.0.lines().flat_map(|line| {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let address = words.next().and_then(|word| word.parse().ok());
            address
                .into_iter()
                .flat_map(move |address: IpAddr| words.clone().map(move |name| (address, name)))
        })
    }

    /// The first address of a name.
    pub fn address(&self, name: &str) -> Option<IpAddr> {
        self.entries()
            .find(|(_, known)| known.eq_ignore_ascii_case(name))
            .map(|(address, _)| address)
    }

    /// The CID of a machine: a number, `host`, `local`, its name with or without
    /// `.inn`, or an address that stands for it.
    pub fn cid(&self, peer: &str) -> Result<u32, String> {
        match peer {
            "" => return Err("say which machine: vsock:PEER:PORT".to_owned()),
            "host" | "host.inn" => return Ok(HOST_CID),
            "local" => return Ok(LOCAL_CID),
            _ => {}
        }
        if let Ok(number) = peer.parse::<u32>() {
            // 0 is the hypervisor, which nothing serves, and the last means any.
            return match number {
                0 | u32::MAX => Err(format!("{peer}: no machine has this CID")),
                number => Ok(number),
            };
        }
        if let Some(cid) = peer.parse().ok().and_then(cid_of) {
            return Ok(cid);
        }
        let full = format!("{peer}{SUFFIX}");
        self.entries()
            .filter(|(_, name)| name.eq_ignore_ascii_case(peer) || name.eq_ignore_ascii_case(&full))
            .find_map(|(address, _)| cid_of(address))
            .ok_or_else(|| self.unknown(peer))
    }

    fn unknown(&self, peer: &str) -> String {
        let mut known: Vec<&str> = Vec::new();
        for (address, name) in self.entries() {
            if cid_of(address).is_some() && !known.contains(&name) && known.len() <= LISTED {
                known.push(name);
            }
        }
        match known.len() {
            0 => format!("{peer}: /etc/hosts has no machine at all; give its CID"),
            1..=LISTED => format!(
                "{peer}: no machine of this name; there are {}",
                known.join(", ")
            ),
            _ => format!(
                "{peer}: no machine of this name; there are {}, ...",
                known[..LISTED].join(", ")
            ),
        }
    }
}

/// The CID that an address of the reserved prefixes stands for: the low 24 bits
/// of 240.0.0.0/8, the low 32 bits of fd69:6e6e:6b70::/96.
pub fn cid_of(address: IpAddr) -> Option<u32> {
    let cid = match address {
        IpAddr::V4(v4) => match v4.octets() {
            [240, a, b, c] => u32::from_be_bytes([0, a, b, c]),
            _ => return None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0xfd69, 0x6e6e, 0x6b70, 0, 0, 0, high, low] => u32::from(high) << 16 | u32::from(low),
            _ => return None,
        },
    };
    (cid != 0 && cid != u32::MAX).then_some(cid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "127.0.0.1 localhost web\n\
        240.0.4.1\tdb.inn store.inn # of the topology\n\
        fd69:6e6e:6b70::100:7 web.inn\n\
        nonsense x.inn\n# 240.0.0.9 gone.inn\n";

    #[test]
    fn peers_have_names_numbers_and_addresses() {
        let hosts = Hosts::parse(FILE);
        for (peer, cid) in [
            ("db", 1025),
            ("DB.inn", 1025),
            ("store", 1025),
            // 127.0.0.1 is no machine, so its line does not hide web.inn.
            ("web", 0x0100_0007),
            ("host", 2),
            ("host.inn", 2),
            ("local", 1),
            ("77", 77),
            ("240.0.0.5", 5),
            ("fd69:6e6e:6b70::2", 2),
        ] {
            assert_eq!(hosts.cid(peer), Ok(cid), "{peer}");
        }
    }

    #[test]
    fn an_unknown_peer_is_told_who_there_is() {
        let error = Hosts::parse(FILE).cid("wbe").unwrap_err();
        assert_eq!(
            error,
            "wbe: no machine of this name; there are db.inn, store.inn, web.inn"
        );
        let many: String = (1..=9).map(|n| format!("240.0.0.{n} m{n}.inn\n")).collect();
        let error = Hosts::parse(&many).cid("x").unwrap_err();
        assert!(error.ends_with("m8.inn, ..."), "{error}");
        let error = Hosts::default().cid("web").unwrap_err();
        assert!(error.contains("give its CID"), "{error}");
        for peer in ["", "0", "4294967295", "gone", "127.0.0.1", "240.0.0.0"] {
            assert!(Hosts::parse(FILE).cid(peer).is_err(), "{peer}");
        }
    }
}

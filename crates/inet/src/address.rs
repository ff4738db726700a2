// SPDX-License-Identifier: Apache-2.0
//! Which inet address is which vsock address. Pure.

/// AF_INET.
pub const INET: u16 = 2;
/// AF_INET6.
pub const INET6: u16 = 10;
/// AF_VSOCK.
pub const VSOCK: u16 = 40;

/// The host's CID.
pub const HOST_CID: u32 = 2;
/// `VMADDR_CID_LOCAL`: this guest, over vsock_loopback.
pub const LOCAL_CID: u32 = 1;
/// `VMADDR_CID_ANY`: no guest in particular.
pub const ANY_CID: u32 = u32::MAX;

/// fd69:6e6e:6b70::/96; the low 32 bits are the CID.
const PREFIX6: [u8; 12] = [0xfd, 0x69, 0x6e, 0x6e, 0x6b, 0x70, 0, 0, 0, 0, 0, 0];
/// ::ffff:0:0/96, how IPv4 addresses look to sockets of the other family.
const MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
/// 240.0.0.0/8; the low 24 bits are the CID.
const PREFIX4: u8 = 240;
const LARGEST_CID4: u32 = (1 << 24) - 1;

/// How a program writes the addresses of one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// 240.0.0.0/8.
    V4,
    /// fd69:6e6e:6b70::/96.
    V6,
    /// ::ffff:240.0.0.0/104.
    Mapped,
    /// 1.0.hi.lo, a domain id of the seed's interposer; 0 is the host.
    Argo,
}

impl Form {
    /// The socket's `SO_PRIORITY`, one that needs no right to set.
    pub const fn mark(self) -> i32 {
        match self {
            Self::Argo => 1,
            Self::V4 => 4,
            Self::Mapped => 5,
            Self::V6 => 6,
        }
    }

    /// The form that a socket's `SO_PRIORITY` says.
    pub const fn of_mark(mark: i32) -> Option<Self> {
        match mark {
            1 => Some(Self::Argo),
            4 => Some(Self::V4),
            5 => Some(Self::Mapped),
            6 => Some(Self::V6),
            _ => None,
        }
    }

    /// The address family that the program asked for.
    pub const fn family(self) -> u16 {
        match self {
            Self::V4 | Self::Argo => INET,
            Self::V6 | Self::Mapped => INET6,
        }
    }
}

/// What an inet address means here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A guest, or the host.
    Guest {
        /// Its CID.
        cid: u32,
        /// The port, as in TCP.
        port: u16,
        /// How the program wrote it.
        form: Form,
    },
    /// All addresses of this machine.
    Wildcard {
        /// 0 for any.
        port: u16,
    },
    /// Somewhere else, which is none of ours.
    Other,
}

/// Reads a `struct sockaddr`.
///
/// `argo` is whether 1.0.hi.lo means a domain. `None` for other families and for what
/// is too short to be of its family.
pub fn meaning(address: &[u8], argo: bool) -> Option<Meaning> {
    let [low, high, rest @ ..] = address else {
        return None;
    };
    match u16::from_ne_bytes([*low, *high]) {
        INET => {
            let [p0, p1, ip @ ..] = rest else { return None };
            let ip: [u8; 4] = ip.get(..4)?.try_into().ok()?;
            // sin_zero too: the kernel refuses shorter ones.
            (address.len() >= 16).then(|| meaning4(ip, u16::from_be_bytes([*p0, *p1]), argo))
        }
        INET6 => {
            let [p0, p1, _, _, _, _, ip @ ..] = rest else {
                return None;
            };
            let ip: [u8; 16] = ip.get(..16)?.try_into().ok()?;
            Some(meaning6(ip, u16::from_be_bytes([*p0, *p1])))
        }
        _ => None,
    }
}

fn meaning4(ip: [u8; 4], port: u16, argo: bool) -> Meaning {
    match ip {
        [0, 0, 0, 0] => Meaning::Wildcard { port },
        [PREFIX4, a, b, c] => guest(u32::from_be_bytes([0, a, b, c]), port, Form::V4),
        [1, 0, high, low] if argo => {
            let domain = u32::from(u16::from_be_bytes([high, low]));
            let cid = if domain == 0 { HOST_CID } else { domain };
            guest(cid, port, Form::Argo)
        }
        _ => Meaning::Other,
    }
}

fn meaning6(ip: [u8; 16], port: u16) -> Meaning {
    let [head @ .., a, b, c, d] = ip;
    let low = [a, b, c, d];
    if head == PREFIX6 {
        return guest(u32::from_be_bytes(low), port, Form::V6);
    }
    if head == MAPPED {
        return match meaning4(low, port, false) {
            Meaning::Guest { cid, .. } => guest(cid, port, Form::Mapped),
            other => other,
        };
    }
    match ip {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0] => Meaning::Wildcard { port },
        _ => Meaning::Other,
    }
}

/// CIDs that are nobody's mean nobody here either.
fn guest(cid: u32, port: u16, form: Form) -> Meaning {
    match cid {
        0 | LOCAL_CID | ANY_CID => Meaning::Other,
        cid => Meaning::Guest { cid, port, form },
    }
}

/// A `struct sockaddr_in` or `sockaddr_in6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    bytes: [u8; 28],
    length: usize,
}

impl Written {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Writes a vsock address as the program wants to read it.
///
/// A port above 65535 is written as 0, and a CID that the form has no room for as
/// CID 0: neither is anybody's, while a number cut short would be another's.
pub fn written(form: Form, cid: u32, port: u32) -> Written {
    let port = u16::try_from(port).unwrap_or(0).to_be_bytes();
    let mut bytes = [0; 28];
    let (family, rest) = bytes.split_at_mut(2);
    family.copy_from_slice(&form.family().to_ne_bytes());
    let (place, rest) = rest.split_at_mut(2);
    place.copy_from_slice(&port);
    let length = if form.family() == INET {
        if let Some(place) = rest.get_mut(..4) {
            place.copy_from_slice(&ip4(form, cid));
        }
        16
    } else {
        // After sin6_flowinfo.
        if let Some(place) = rest.get_mut(4..20) {
            place.copy_from_slice(&ip6(form, cid));
        }
        28
    };
    Written { bytes, length }
}

fn ip4(form: Form, cid: u32) -> [u8; 4] {
    let domain = if cid == HOST_CID { 0 } else { cid };
    match (form, u16::try_from(domain)) {
        _ if cid == ANY_CID => [0; 4],
        (Form::Argo, Ok(domain)) => {
            let [high, low] = domain.to_be_bytes();
            [1, 0, high, low]
        }
        _ => {
            let [_, a, b, c] = if cid > LARGEST_CID4 { 0 } else { cid }.to_be_bytes();
            [PREFIX4, a, b, c]
        }
    }
}

fn ip6(form: Form, cid: u32) -> [u8; 16] {
    let (head, low) = match form {
        _ if cid == ANY_CID => ([0; 12], [0; 4]),
        Form::Mapped => (MAPPED, ip4(form, cid)),
        _ => (PREFIX6, cid.to_be_bytes()),
    };
    let mut ip = [0; 16];
    let (first, last) = ip.split_at_mut(12);
    first.copy_from_slice(&head);
    last.copy_from_slice(&low);
    ip
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn address(ip: &str, port: u16) -> Vec<u8> {
        let port = port.to_be_bytes();
        if let Ok(ip) = ip.parse::<Ipv4Addr>() {
            let family = INET.to_ne_bytes();
            return [&family[..], &port, &ip.octets(), &[0; 8]].concat();
        }
        let ip: Ipv6Addr = ip.parse().unwrap();
        let family = INET6.to_ne_bytes();
        [&family[..], &port, &[0; 4], &ip.octets(), &[0; 4]].concat()
    }

    fn read(ip: &str, port: u16) -> Option<Meaning> {
        meaning(&address(ip, port), false)
    }

    fn is(cid: u32, port: u16, form: Form) -> Option<Meaning> {
        Some(Meaning::Guest { cid, port, form })
    }

    #[test]
    fn reserved_addresses_are_guests() {
        assert_eq!(read("240.0.0.2", 80), is(2, 80, Form::V4));
        assert_eq!(
            read("240.255.255.255", 65535),
            is(LARGEST_CID4, 65535, Form::V4)
        );
        assert_eq!(read("fd69:6e6e:6b70::400", 22), is(1024, 22, Form::V6));
        assert_eq!(
            read("fd69:6e6e:6b70::ffff:fffe", 1),
            is(u32::MAX - 1, 1, Form::V6)
        );
        assert_eq!(read("::ffff:240.0.4.0", 22), is(1024, 22, Form::Mapped));
    }

    #[test]
    fn everything_else_is_left_alone() {
        for ip in [
            "127.0.0.1",
            "239.255.255.255",
            "241.0.0.2",
            "1.0.0.1",
            "::1",
            "fd69:6e6e:6b70::1:0:2",
            "fd69:6e6e:6b71::2",
            "::ffff:127.0.0.1",
            "::240.0.0.2",
            // Nobody's CIDs.
            "240.0.0.0",
            "240.0.0.1",
            "fd69:6e6e:6b70::",
            "fd69:6e6e:6b70::ffff:ffff",
        ] {
            assert_eq!(read(ip, 80), Some(Meaning::Other), "{ip}");
        }
        for ip in ["0.0.0.0", "::", "::ffff:0.0.0.0"] {
            assert_eq!(read(ip, 80), Some(Meaning::Wildcard { port: 80 }), "{ip}");
        }
    }

    #[test]
    fn domains_only_when_asked_for() {
        let host = address("1.0.0.0", 22);
        assert_eq!(meaning(&host, true), is(2, 22, Form::Argo));
        assert_eq!(
            meaning(&address("1.0.4.1", 22), true),
            is(1025, 22, Form::Argo)
        );
        assert_eq!(meaning(&address("1.1.0.1", 22), true), Some(Meaning::Other));
        assert_eq!(meaning(&host, false), Some(Meaning::Other));
    }

    #[test]
    fn short_and_foreign_ones_are_none() {
        for ip in ["240.0.0.2", "fd69:6e6e:6b70::2"] {
            let whole = address(ip, 1);
            let needed = if whole.len() == 16 { 16 } else { 24 };
            for length in 0..whole.len() {
                let read = meaning(&whole[..length], true);
                assert_eq!(read.is_some(), length >= needed, "{ip} {length}");
            }
        }
        assert_eq!(meaning(&[1, 0, b'/', b'x'], true), None);
        assert_eq!(meaning(&VSOCK.to_ne_bytes().repeat(8), true), None);
    }

    #[test]
    fn what_is_written_reads_the_same() {
        for form in [Form::V4, Form::V6, Form::Mapped, Form::Argo] {
            assert_eq!(Form::of_mark(form.mark()), Some(form));
            for (cid, port) in [(2, 80), (1024, 22), (0xffff, 65535)] {
                let written = written(form, cid, u32::from(port));
                assert_eq!(meaning(written.as_bytes(), true), is(cid, port, form));
            }
        }
    }

    #[test]
    fn nothing_is_cut_short() {
        let big = 1 << 24;
        for (form, ip) in [
            (Form::V4, "240.0.0.0"),
            (Form::Mapped, "::ffff:240.0.0.0"),
            (Form::V6, "fd69:6e6e:6b70::100:0"),
            (Form::Argo, "240.0.0.0"),
        ] {
            // 65536 + 80 is not port 80.
            assert_eq!(written(form, big, 65616).as_bytes(), address(ip, 0));
        }
        assert_eq!(
            written(Form::Argo, 0x1_0001, 1).as_bytes(),
            address("240.1.0.1", 1)
        );
        for (form, ip) in [
            (Form::V4, "0.0.0.0"),
            (Form::V6, "::"),
            (Form::Mapped, "::"),
        ] {
            assert_eq!(written(form, ANY_CID, 80).as_bytes(), address(ip, 80));
        }
    }
}

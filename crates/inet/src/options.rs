// SPDX-License-Identifier: Apache-2.0
//! What a program hears of the TCP and IP options of a socket that is no TCP socket any
//! more. Pure.

/// SOL_SOCKET.
pub const SOCKET: i32 = 1;
/// SOL_TCP.
pub const TCP: i32 = 6;
/// SOL_IP.
pub const IP: i32 = 0;
/// SOL_IPV6.
pub const IPV6: i32 = 41;

/// SO_ERROR.
pub const SO_ERROR: i32 = 4;
/// SO_PRIORITY, which holds our mark.
pub const SO_PRIORITY: i32 = 12;
/// SO_PROTOCOL.
pub const SO_PROTOCOL: i32 = 38;
/// SO_DOMAIN.
pub const SO_DOMAIN: i32 = 39;

/// TCP_ESTABLISHED and TCP_LISTEN (linux/tcp_states.h).
const ESTABLISHED: u8 = 1;
const LISTEN: u8 = 10;

/// The value of an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// An int.
    Number(i32),
    /// A string with its zero.
    Text(&'static [u8]),
    /// `struct tcp_info`, with this state.
    TcpInfo(u8),
    /// Nothing; the length is 0.
    Empty,
}

/// Whether setting this option may seem to work, although it does nothing.
///
/// Not where the program would rely on it: that TLS happens in the kernel, that it may
/// have any source address, that all segments are signed.
pub fn may_be_ignored(level: i32, name: i32) -> bool {
    match (level, name) {
        (SOCKET, SO_PRIORITY) => true,
        // TCP_MD5SIG, TCP_REPAIR*, TCP_ULP, TCP_MD5SIG_EXT, TCP_AO_*.
        (TCP, 14 | 19 | 20 | 21 | 22 | 31 | 32 | 38..) => false,
        // IP_TRANSPARENT; IPT_SO_SET_REPLACE and its like begin at 64.
        (IP, 19 | 64..) => false,
        // IPV6_TRANSPARENT; IP6T_SO_SET_REPLACE.
        (IPV6, 75 | 64 | 65) => false,
        (TCP | IP | IPV6, _) => true,
        _ => false,
    }
}

/// Whether reading this option may need an answer of ours.
pub fn is_answered(level: i32, name: i32) -> bool {
    match level {
        SOCKET => matches!(name, SO_ERROR | SO_PRIORITY | SO_PROTOCOL | SO_DOMAIN),
        TCP | IP | IPV6 => true,
        _ => false,
    }
}

/// What an option that vsock does not know would say of a TCP socket over loopback.
/// `None`: as vsock says, that there is no such option.
pub fn value(level: i32, name: i32, listening: bool) -> Option<Value> {
    let number = match (level, name) {
        // Nothing waits to be filled up: vsock has no Nagle.
        (TCP, 1) => 1,
        // TCP_MAXSEG, as on loopback.
        (TCP, 2) => 65_483,
        // TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_SYNCNT: the kernel's defaults.
        (TCP, 4) => 7200,
        (TCP, 5) => 75,
        (TCP, 6) => 9,
        (TCP, 7) => 6,
        (TCP, 11) => {
            let state = if listening { LISTEN } else { ESTABLISHED };
            return Some(Value::TcpInfo(state));
        }
        // TCP_CONGESTION: iperf3 ends without an answer.
        (TCP, 13) => return Some(Value::Text(b"cubic\0")),
        // TCP_CORK, _LINGER2, _DEFER_ACCEPT, _WINDOW_CLAMP, _QUICKACK, _USER_TIMEOUT,
        // _FASTOPEN, _TIMESTAMP, _NOTSENT_LOWAT, _FASTOPEN_CONNECT.
        (TCP, 3 | 8 | 9 | 10 | 12 | 18 | 23 | 24 | 25 | 30) => 0,
        // IP_OPTIONS: sshd drops connections that have some.
        (IP, 4) => return Some(Value::Empty),
        // IP_TTL, IPV6_UNICAST_HOPS.
        (IP, 2) | (IPV6, 16) => 64,
        // IP_MTU and IPV6_MTU of loopback.
        (IP, 14) | (IPV6, 24) => 65_536,
        // IP_TOS, IP_RECVERR, IP_FREEBIND, IP_BIND_ADDRESS_NO_PORT and their like.
        (IP, 1 | 6 | 7 | 8 | 10..=13 | 15 | 24) => 0,
        // IPV6_V6ONLY, IPV6_RECVERR, IPV6_RECVPKTINFO, IPV6_TCLASS and their like.
        (IPV6, 23 | 25 | 26 | 49 | 51 | 66 | 67 | 72) => 0,
        _ => return None,
    };
    Some(Value::Number(number))
}

impl Value {
    /// Writes the value, or as much as there is room for; returns how much that was.
    pub fn write(self, place: &mut [u8]) -> usize {
        // As large as the fields that every program knows (linux/tcp.h).
        let mut info = [0; 104];
        let number;
        let bytes: &[u8] = match self {
            Self::Number(value) => {
                number = value.to_ne_bytes();
                &number
            }
            Self::Text(text) => text,
            Self::Empty => &[],
            Self::TcpInfo(state) => {
                fill_tcp_info(&mut info, state);
                &info
            }
        };
        let length = bytes.len().min(place.len());
        for (to, from) in place.iter_mut().zip(bytes) {
            *to = *from;
        }
        length
    }
}

/// `struct tcp_info`: eight bytes of small fields, then u32 ones.
fn fill_tcp_info(info: &mut [u8; 104], state: u8) {
    if let Some(place) = info.first_mut() {
        *place = state;
    }
    // tcpi_snd_mss, tcpi_rcv_mss, tcpi_pmtu, tcpi_rtt (µs), tcpi_snd_cwnd.
    for (offset, value) in [
        (16, 65_483),
        (20, 65_483),
        (60, 65_536),
        (68, 100),
        (80, 10),
    ] {
        if let Some(place) = info.get_mut(offset..offset + 4) {
            place.copy_from_slice(&u32::to_ne_bytes(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_relies_on_is_not_ignored() {
        for (level, name) in [
            (TCP, 31),
            (TCP, 14),
            (IP, 19),
            (IP, 80),
            (IPV6, 75),
            (SOCKET, 2),
        ] {
            assert!(!may_be_ignored(level, name), "{level} {name}");
        }
        for (level, name) in [(TCP, 1), (TCP, 9), (IP, 1), (IPV6, 26), (IPV6, 67)] {
            assert!(may_be_ignored(level, name), "{level} {name}");
        }
    }

    #[test]
    fn values_fit_in_the_place_they_get() {
        for (level, name) in [(TCP, 1), (TCP, 11), (TCP, 13), (IP, 4), (IPV6, 26)] {
            let value = value(level, name, false).unwrap();
            let mut room = [0xaa; 256];
            let whole = value.write(&mut room);
            assert!(room[whole..].iter().all(|byte| *byte == 0xaa));
            for length in 0..=whole {
                assert_eq!(value.write(&mut room[..length]), length);
            }
        }
        // SO_ORIGINAL_DST: nobody redirected this.
        assert_eq!(value(IP, 80, false), None);
        assert_eq!(value(TCP, 31, false), None);
    }

    #[test]
    fn tcp_info_says_what_state() {
        for (listening, state) in [(false, 1), (true, 10)] {
            let mut info = [0; 104];
            assert_eq!(value(TCP, 11, listening).unwrap().write(&mut info), 104);
            assert_eq!(info[0], state);
        }
    }
}

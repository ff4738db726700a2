// SPDX-License-Identifier: Apache-2.0
//! The convention of the host's side: `CONNECT <port>\n` and `<path>_<port>`.
//!
//! Between two devices the line is `LINK <port> <own port>\n` (see `peers`).
//!
//! Firecracker, Cloud Hypervisor and vhost-device-vsock share it, so existing
//! clients work. One deviation is deliberate: the line must be exact (decimal
//! digits, one space, one newline), because a lenient parser on a socket that
//! also carries payload invites surprises.

/// Longest accepted line with its newline. The longest meaningful one,
/// `LINK 4294967295 4294967295\n`, has 27 bytes.
pub const MAX_LINE: usize = 32;

const CONNECT: &[u8] = b"CONNECT ";
const LINK: &[u8] = b"LINK ";
const OK: &[u8] = b"OK ";

/// What the bytes received so far amount to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Line {
    /// No newline yet.
    Incomplete,
    /// A wish for a guest port; payload starts at `consumed`.
    Connect {
        /// The guest port asked for.
        port: u32,
        /// Bytes of the line, newline included.
        consumed: usize,
    },
    /// Another guest's wish for a guest port.
    Link {
        /// The guest port asked for.
        port: u32,
        /// The other guest's port.
        from_port: u32,
        /// Bytes of the line, newline included.
        consumed: usize,
    },
    /// The other guest accepted.
    Ok {
        /// Bytes of the line, newline included.
        consumed: usize,
    },
    /// Not the convention, or too long.
    Malformed,
}

/// Parses the start of a client's stream.
#[must_use]
pub fn parse(received: &[u8]) -> Line {
    parse_line(received, CONNECT, |fields, consumed| {
        let port = port(fields)?;
        Some(Line::Connect { port, consumed })
    })
}

/// Parses the start of another device's stream.
#[must_use]
pub fn parse_link(received: &[u8]) -> Line {
    parse_line(received, LINK, |fields, consumed| {
        let space = fields.iter().position(|byte| *byte == b' ')?;
        Some(Line::Link {
            port: port(&fields[..space])?,
            from_port: port(&fields[space + 1..])?,
            consumed,
        })
    })
}

/// Parses the start of another device's answer.
#[must_use]
pub fn parse_ok(received: &[u8]) -> Line {
    parse_line(received, OK, |fields, consumed| {
        port(fields)?;
        Some(Line::Ok { consumed })
    })
}

fn parse_line(
    received: &[u8],
    keyword: &[u8],
    read: impl FnOnce(&[u8], usize) -> Option<Line>,
) -> Line {
    let window = &received[..received.len().min(MAX_LINE)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        let plausible = window
            .iter()
            .zip(keyword)
            .all(|(byte, expected)| byte == expected);
        return if plausible && window.len() < MAX_LINE {
            Line::Incomplete
        } else {
            Line::Malformed
        };
    };
    window[..end]
        .strip_prefix(keyword)
        .and_then(|fields| read(fields, end + 1))
        .unwrap_or(Line::Malformed)
}

fn port(digits: &[u8]) -> Option<u32> {
    // `u32::from_str` would also take a sign.
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// The answer to a client whose port the guest accepted.
#[must_use]
pub fn ok_line(host_port: u32) -> String {
    format!("OK {host_port}\n")
}

/// What a device says to another: its guest's `from_port` wants `port`.
#[must_use]
pub fn link_line(port: u32, from_port: u32) -> String {
    format!("LINK {port} {from_port}\n")
}

/// The socket a guest's connection to `port` of the host goes to.
#[must_use]
pub fn service_path(hybrid_path: &str, port: u32) -> String {
    format!("{hybrid_path}_{port}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_lines_parse_and_keep_what_follows() {
        assert_eq!(
            parse(b"CONNECT 9001\n"),
            Line::Connect {
                port: 9001,
                consumed: 13
            }
        );
        assert_eq!(
            parse(b"CONNECT 0\nhello"),
            Line::Connect {
                port: 0,
                consumed: 10
            }
        );
        assert_eq!(
            parse(b"CONNECT 4294967295\n\n"),
            Line::Connect {
                port: u32::MAX,
                consumed: 19
            }
        );
    }

    #[test]
    fn anything_else_is_malformed() {
        for line in [
            "CONNECT 4294967296\n",
            "CONNECT -1\n",
            "CONNECT +1\n",
            "CONNECT 1 \n",
            "CONNECT  1\n",
            "CONNECT \n",
            "CONNECT\n",
            "connect 1\n",
            "\n",
            "CONNECT 1\r\n",
            "CONNECT 0x10\n",
        ] {
            assert_eq!(parse(line.as_bytes()), Line::Malformed, "{line:?}");
        }
        assert_eq!(parse(&[b'1'; 32]), Line::Malformed);
        let zeros = format!("CONNECT {}\n", "0".repeat(24));
        assert_eq!(parse(zeros.as_bytes()), Line::Malformed);
    }

    #[test]
    fn links_and_their_answers_parse() {
        let line = link_line(u32::MAX, u32::MAX);
        assert_eq!(
            parse_link(line.as_bytes()),
            Line::Link {
                port: u32::MAX,
                from_port: u32::MAX,
                consumed: 27
            }
        );
        for line in [
            "LINK 1\n",
            "LINK 1 \n",
            "LINK 1 2 3\n",
            "LINK  1 2\n",
            "CONNECT 1\n",
        ] {
            assert_eq!(parse_link(line.as_bytes()), Line::Malformed, "{line:?}");
        }
        assert_eq!(parse(b"LINK 1 2\n"), Line::Malformed);
        assert_eq!(parse_ok(b"OK 5\nrest"), Line::Ok { consumed: 5 });
        assert_eq!(parse_ok(b"OK\n"), Line::Malformed);
        assert_eq!(parse_ok(b"O"), Line::Incomplete);
    }

    #[test]
    fn a_line_may_arrive_byte_by_byte() {
        let line = b"CONNECT 65535\n";
        for end in 0..line.len() {
            assert_eq!(parse(&line[..end]), Line::Incomplete);
        }
    }
}

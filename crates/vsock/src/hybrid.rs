// SPDX-License-Identifier: Apache-2.0
//! The convention of the host's side: `CONNECT <port>\n` and `<path>_<port>`.
//!
//! Firecracker, Cloud Hypervisor and vhost-device-vsock share it, so existing
//! clients work. One deviation is deliberate: the line must be exact (decimal
//! digits, one space, one newline), because a lenient parser on a socket that
//! also carries payload invites surprises.

/// Longest accepted line with its newline. The longest meaningful one,
/// `CONNECT 4294967295\n`, has 19 bytes.
pub const MAX_LINE: usize = 32;

const KEYWORD: &[u8] = b"CONNECT ";

/// What the bytes received so far amount to.
#[derive(Debug, PartialEq, Eq)]
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
    /// Not the convention, or too long.
    Malformed,
}

/// Parses the start of a client's stream.
#[must_use]
pub fn parse(received: &[u8]) -> Line {
    let window = &received[..received.len().min(MAX_LINE)];
    let Some(end) = window.iter().position(|byte| *byte == b'\n') else {
        let plausible = window
            .iter()
            .zip(KEYWORD)
            .all(|(byte, expected)| byte == expected);
        return if plausible && window.len() < MAX_LINE {
            Line::Incomplete
        } else {
            Line::Malformed
        };
    };
    match window[..end].strip_prefix(KEYWORD).and_then(port) {
        Some(port) => Line::Connect {
            port,
            consumed: end + 1,
        },
        None => Line::Malformed,
    }
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
    fn a_line_may_arrive_byte_by_byte() {
        let line = b"CONNECT 65535\n";
        for end in 0..line.len() {
            assert_eq!(parse(&line[..end]), Line::Incomplete);
        }
    }
}

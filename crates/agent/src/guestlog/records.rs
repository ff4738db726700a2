// SPDX-License-Identifier: Apache-2.0
//! What programs and the kernel say, as records: /dev/kmsg
//! (Documentation/ABI/testing/dev-kmsg) and RFC 3164.

use inn_wire::guestlog::{Record, Source};

/// Bytes kept of one message.
pub const MAX_CONTENT: usize = 1024;

/// user.notice, what RFC 3164 takes for a message without a priority.
const DEFAULT_PRIORITY: u32 = 13;
/// local7.debug, the last priority.
const MAX_PRIORITY: u32 = 191;

/// Length of `Mmm dd hh:mm:ss ` and where its marks stand.
const STAMP: usize = 16;
const MARKS: [(usize, u8); 5] = [(3, b' '), (6, b' '), (9, b':'), (12, b':'), (15, b' ')];

/// A record of /dev/kmsg with its sequence number:
/// `priority,sequence,microseconds,flags;text`, then lines of a dictionary.
pub fn parse_kernel(bytes: &[u8], timestamp_ns: u64) -> Option<(u64, Record)> {
    let end = bytes.iter().position(|byte| *byte == b';')?;
    let (head, text) = (bytes.get(..end)?, bytes.get(end + 1..)?);
    let mut numbers = std::str::from_utf8(head).ok()?.split(',');
    let priority: u32 = numbers.next()?.parse().ok()?;
    let sequence = numbers.next()?.parse().ok()?;
    let line = text.split(|byte| *byte == b'\n').next()?;
    let record = record(priority, timestamp_ns, Source::Kernel, line);
    Some((sequence, record))
}

/// One datagram of /dev/log. Whatever it is, it is somebody's message.
pub fn parse_user(bytes: &[u8], timestamp_ns: u64) -> Record {
    let (priority, rest) = split_priority(bytes).unwrap_or((DEFAULT_PRIORITY, bytes));
    let stamped = MARKS.iter().all(|(at, mark)| rest.get(*at) == Some(mark));
    let text = match rest.get(STAMP..) {
        Some(text) if stamped => text,
        _ => rest,
    };
    record(priority, timestamp_ns, Source::User, text)
}

fn split_priority(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let rest = bytes.strip_prefix(b"<")?;
    let end = rest.iter().take(4).position(|byte| *byte == b'>')?;
    let number = std::str::from_utf8(rest.get(..end)?).ok()?;
    let priority = number.parse().ok().filter(|found| *found <= MAX_PRIORITY)?;
    Some((priority, rest.get(end + 1..)?))
}

fn record(priority: u32, timestamp_ns: u64, source: Source, text: &[u8]) -> Record {
    let length = text
        .iter()
        .rposition(|byte| !matches!(byte, b'\n' | 0))
        .map_or(0, |last| last + 1);
    let content = text.get(..length.min(MAX_CONTENT)).unwrap_or_default();
    Record {
        severity: priority & 7,
        facility: priority >> 3,
        timestamp_ns,
        source: source.into(),
        content: content.to_vec().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_records() {
        let line = b"30,339,5140900,-;inn: hello; again\n SUBSYSTEM=x\n";
        let (sequence, record) = parse_kernel(line, 7).unwrap();
        assert_eq!(sequence, 339);
        assert_eq!((record.severity, record.facility), (6, 3));
        assert_eq!(record.content.as_ref(), b"inn: hello; again");
        for bad in [&b"no record"[..], b"x,1,2,-;t", b"6;t", b"", b"\xff,1;t"] {
            assert!(parse_kernel(bad, 7).is_none());
        }
    }

    #[test]
    fn user_records() {
        let parse = |bytes: &[u8]| {
            let record = parse_user(bytes, 7);
            (record.facility, record.severity, record.content.to_vec())
        };
        let plain = b"root: hello".to_vec();
        assert_eq!(
            parse(b"<11>Nov 21 02:52:47 root: hello\n\0"),
            (1, 3, plain.clone())
        );
        assert_eq!(parse(b"<11>root: hello"), (1, 3, plain.clone()));
        assert_eq!(parse(b"root: hello"), (1, 5, plain));
        for odd in [&b"<999>x"[..], b"<>x", b"<1", b"<", b"", b"<12345>x"] {
            assert_eq!(parse(odd).2, odd);
        }
        assert_eq!(parse(&[b'x'; 5000]).2.len(), MAX_CONTENT);
    }
}

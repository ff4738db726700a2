// SPDX-License-Identifier: Apache-2.0
//! Layouts, byte for byte, and geometry.
#![allow(clippy::unwrap_used)]

use inn_rings::Errno;
use inn_rings::abi::{self, Address, Command, MessageHeader, RingData};
use proptest::prelude::*;

#[test]
fn a_header_is_16_bytes() {
    let header = MessageHeader {
        len: 0x0102_0304,
        source: Address::new(0x0506, 0x0708_090A),
        message_type: 0x0B0C_0D0E,
    };
    let bytes = header.encode();
    let expected = [4, 3, 2, 1, 10, 9, 8, 7, 6, 5, 0, 0, 14, 13, 12, 11];
    assert_eq!(bytes, expected);
}

#[test]
fn an_entry_is_20_bytes() {
    let entry = RingData {
        ring: Address::new(0x0102, 0x0304_0506),
        flags: 0x0708,
        space_required: 0x090A_0B0C,
        max_message_size: 0x0D0E_0F10,
    };
    let expected = [
        6, 5, 4, 3, 2, 1, 0, 0, 8, 7, 0, 0, 12, 11, 10, 9, 16, 15, 14, 13,
    ];
    assert_eq!(entry.encode(), expected);
    assert_eq!(RingData::decode(expected), entry);
}

#[test]
fn headers_that_no_message_has() {
    let refused = |at: usize, byte: u8| {
        let mut bytes = MessageHeader {
            len: 16,
            source: Address::new(1, 2),
            message_type: 3,
        }
        .encode();
        bytes[at] = byte;
        MessageHeader::decode(&bytes)
    };
    assert!(refused(0, 16).is_ok());
    assert_eq!(refused(0, 15), Err(Errno::Einval), "shorter than itself");
    assert_eq!(refused(3, 1), Err(Errno::Einval), "longer than any");
    assert_eq!(refused(10, 1), Err(Errno::Einval), "padding");
    assert_eq!(refused(11, 1), Err(Errno::Einval), "padding");
}

#[test]
fn geometry_at_its_edges() {
    assert_eq!([0, 1, 16, 17].map(abi::slots), [0, 16, 16, 32]);
    assert_eq!([0, 1, 16, 17].map(abi::cost), [16, 32, 32, 48]);
    assert_eq!(
        [48, 4032, 4048, 0x100_0000].map(abi::pages),
        [1, 1, 2, 4097]
    );
    // Nothing that a caller passes overflows.
    assert_eq!(abi::slots(u32::MAX) % 16, 0);
    assert!(abi::cost(u32::MAX) > abi::MAX_RING);
    assert!(abi::pages(u32::MAX) > abi::pages(abi::MAX_RING));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_decoded_is_what_was_encoded(bytes: [u8; 16]) {
        if let Ok(header) = MessageHeader::decode(&bytes) {
            prop_assert_eq!(header.encode(), bytes);
        }
        let (address, _) = bytes.split_first_chunk::<8>().unwrap();
        prop_assert_eq!(Address::decode(*address).encode(), *address);
    }

    #[test]
    fn raw_calls_never_panic(number: u32, arg3: u64, arg4: u64) {
        let small = arg3 <= u64::from(u32::MAX) && arg4 <= u64::from(u32::MAX);
        if let Ok(command) = Command::from_call(number, arg3, arg4) {
            prop_assert!(small && (1..=4).contains(&number), "{:?}", command);
        }
    }
}

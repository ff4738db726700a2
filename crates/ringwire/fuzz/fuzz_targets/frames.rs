// SPDX-License-Identifier: Apache-2.0
//! A stream of frames from anybody: all are read to the end, none panics, and
//! what is read is no longer than what came.
#![no_main]

use inn_ringwire::{Answer, Notice, Request, split};
use libfuzzer_sys::fuzz_target;

fn read(request: Request<'_>) {
    match request {
        Request::Sendv(call) => assert_eq!(call.pieces().count(), call.count()),
        Request::Notify(entries) => assert_eq!(entries.iter().count(), entries.count()),
        Request::For(one) => {
            if let Ok(inner) = one.request() {
                assert!(!matches!(inner, Request::For(_)));
                read(inner);
            }
        }
        _ => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut left = bytes;
    while let Ok(Some(frame)) = split(left) {
        let _ = Notice::decode(&frame);
        if let Ok(answer) = Answer::decode(&frame) {
            let _ = (answer.entries().count(), answer.rings().count());
        }
        if let Ok(request) = Request::decode(&frame) {
            read(request);
        }
        left = &left[frame.size()..];
    }
});

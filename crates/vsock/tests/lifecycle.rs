// SPDX-License-Identifier: Apache-2.0
//! Starting, stopping, and QEMU's part of the conversation.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic here is the failure report"
)]

mod guest;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use guest::{CID, Guest, eventually, fd};
use inn_vsock::packet::Op;
use inn_vsock::{Config, Error, VsockDevice};
use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::VhostUserConfigFlags;

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// Counting descriptors needs a process to itself, so the counting parts are
/// one test and this file's other tests wait for it.
static ALONE: std::sync::RwLock<()> = std::sync::RwLock::new(());

#[test]
fn closing_returns_every_descriptor() {
    let _alone = ALONE.write().unwrap();
    let before = open_descriptors();
    for hang_up in [false, true] {
        let mut guest = Guest::new();
        let service = guest.service(1);
        let dialled = guest.dial(9, &service, 1);
        let (mut client, _) = guest.accept(5);
        let waiting = guest.client();
        let published = UnixListener::bind(guest.dir.path().join("published")).unwrap();
        guest.device.publish(fd(published), 1).unwrap();
        if hang_up {
            let Guest {
                frontend,
                device,
                memory,
                rx,
                tx,
                dir,
                ..
            } = guest;
            drop(frontend);
            assert_eq!(
                client.read(&mut [0; 1]).unwrap(),
                0,
                "the thread ended by itself"
            );
            eventually(|| device.stats().connections_open == 0);
            let late = UnixListener::bind(dir.path().join("late")).unwrap();
            assert!(matches!(device.publish(fd(late), 1), Err(Error::Closed)));
            device.close();
            drop((device, memory, rx, tx, dir));
        } else {
            let start = Instant::now();
            guest.device.close();
            guest.device.close();
            assert!(start.elapsed() < Duration::from_millis(500));
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
            let late = UnixListener::bind(guest.dir.path().join("late")).unwrap();
            assert!(matches!(
                guest.device.publish(fd(late), 1),
                Err(Error::Closed)
            ));
            drop(guest);
        }
        drop((service, dialled, client, waiting));
        assert_eq!(open_descriptors(), before);
    }
    refused_arguments_are_closed_too(before);
}

fn refused_arguments_are_closed_too(before: usize) {
    let dir = tempfile::tempdir().unwrap();
    let config = |guest_cid, hybrid_path: &str| Config {
        guest_cid,
        hybrid_path: hybrid_path.into(),
        max_connections: 1,
    };
    let mut attempts = 0;
    let mut start = |config: Config, swap: bool| {
        attempts += 1;
        let listener = UnixListener::bind(dir.path().join(attempts.to_string())).unwrap();
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (a, b): (OwnedFd, OwnedFd) = if swap {
            (listener.into(), ours.into())
        } else {
            (ours.into(), listener.into())
        };
        VsockDevice::start(config, a, b).unwrap_err()
    };
    for cid in [0, 1, 2, u64::from(u32::MAX), 1 << 32, u64::MAX] {
        assert!(matches!(
            start(config(cid, "/x"), false),
            Error::InvalidCid(_)
        ));
    }
    assert!(matches!(
        start(config(3, &"p".repeat(97)), false),
        Error::PathTooLong(_)
    ));
    assert!(matches!(
        start(config(3, "a\0b"), false),
        Error::PathInvalid(_)
    ));
    assert!(matches!(
        start(config(3, "/x"), true),
        Error::Descriptor { .. }
    ));
    assert_eq!(open_descriptors(), before);
}

#[test]
fn a_thread_that_waits_for_half_a_message_can_be_stopped() {
    let _shared = ALONE.read().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("s")).unwrap();
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    let config = Config {
        guest_cid: 3,
        hybrid_path: "/x".into(),
        max_connections: 1,
    };
    let device = VsockDevice::start(config, theirs.into(), listener.into()).unwrap();
    // The header of SET_FEATURES announces 8 bytes that never come.
    ours.write_all(&[2, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0])
        .unwrap();
    std::thread::sleep(Duration::from_millis(20));
    let start = Instant::now();
    device.close();
    assert!(start.elapsed() < Duration::from_millis(500));
}

#[test]
fn qemu_learns_cid_and_queues() {
    let _shared = ALONE.read().unwrap();
    let mut guest = Guest::new();
    let flags = VhostUserConfigFlags::empty();
    let (_, cid) = guest.frontend.get_config(0, 8, flags, &[0; 8]).unwrap();
    assert_eq!(cid, CID.to_le_bytes());
    assert_eq!(guest.frontend.get_queue_num().unwrap(), 3);
    assert_eq!(
        guest.frontend.get_features().unwrap(),
        1 << 32 | 1 << 30 | 1 << 29
    );
}

#[test]
fn a_restarted_guest_finds_a_clean_table() {
    let _shared = ALONE.read().unwrap();
    let mut guest = Guest::new();
    let (mut client, _) = guest.accept(5);
    guest.stop_ring(0);
    guest.stop_ring(1);
    guest.start_rings();
    guest.post_rx(8);
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
    guest.expect_silence();
    guest.accept(5);
}

#[test]
fn a_paused_guest_keeps_its_streams() {
    let _shared = ALONE.read().unwrap();
    let mut guest = Guest::new();
    let (mut client, host_port) = guest.accept(5);
    let bases = [guest.stop_ring(0), guest.stop_ring(1)];
    client.write_all(b"meanwhile").unwrap();
    guest.resume_rings(bases);
    assert_eq!(guest.expect(Op::Rw).1, b"meanwhile");
    guest.send_data(5, host_port, b"back");
    client.read_exact(&mut [0; 4]).unwrap();
}

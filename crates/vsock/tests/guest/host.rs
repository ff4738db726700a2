// SPDX-License-Identifier: Apache-2.0
//! The host's side of a test: clients, services, and reading from them.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use inn_vsock::packet::Op;

use super::Guest;

impl Guest {
    pub fn hybrid_path(&self) -> PathBuf {
        self.dir.path().join("vsock.sock")
    }

    /// Listens where the guest's connections to `port` go.
    pub fn service(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.dir.path().join(format!("vsock.sock_{port}"))).unwrap()
    }

    pub fn client(&self) -> UnixStream {
        let client = UnixStream::connect(self.hybrid_path()).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        client
    }

    /// A stream the guest opened: its socket on the host's side.
    pub fn dial(&mut self, guest_port: u32, service: &UnixListener, port: u32) -> UnixStream {
        self.send(Op::Request, guest_port, port);
        self.expect(Op::Response);
        let (socket, _) = service.accept().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket
    }

    /// A stream the host opened: its client and the host port.
    pub fn accept(&mut self, guest_port: u32) -> (UnixStream, u32) {
        let mut client = self.client();
        writeln!(client, "CONNECT {guest_port}").unwrap();
        let host_port = self.answer(guest_port);
        assert_eq!(read_line(&mut client), format!("OK {host_port}\n"));
        (client, host_port)
    }

    /// Accepts the request that comes next; returns its host port.
    pub fn answer(&mut self, guest_port: u32) -> u32 {
        let (request, _) = self.expect(Op::Request);
        assert_eq!(request.dst_port, guest_port);
        self.send(Op::Response, guest_port, request.src_port);
        request.src_port
    }
}

pub fn read_line(socket: &mut UnixStream) -> String {
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        if socket.read(&mut byte).unwrap() == 0 {
            break;
        }
        line.push(byte[0]);
    }
    String::from_utf8(line).unwrap()
}

pub fn read_all(socket: &mut UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Waits until `condition` holds.
pub fn eventually(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !condition() {
        assert!(Instant::now() < deadline, "the condition never came true");
        std::thread::sleep(Duration::from_millis(1));
    }
}

pub fn fd(socket: impl Into<OwnedFd>) -> OwnedFd {
    socket.into()
}

/// Sends until the socket and the device's buffer hold `count` bytes in all.
pub fn fill(guest: &mut Guest, guest_port: u32, host_port: u32, count: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while all.len() < count {
        let chunk: Vec<u8> = (0..32768).map(|i| (i * 7 + all.len()) as u8).collect();
        guest.send_data(guest_port, host_port, &chunk);
        all.extend(chunk);
        while guest.try_recv(Duration::from_millis(2)).is_some() {}
    }
    all
}

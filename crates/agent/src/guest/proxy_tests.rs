// SPDX-License-Identifier: Apache-2.0
//! The proxy between sockets of this machine.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use super::*;

fn parsed(words: &[&str]) -> Result<Options, String> {
    parse(&words.iter().map(OsString::from).collect::<Vec<_>>())
}

fn shared(connections: usize) -> Arc<Shared> {
    Arc::new(Shared {
        slots: Arc::new(Semaphore::new(connections)),
        patience: Duration::from_secs(10),
        complaints: Complaints::default(),
    })
}

/// A proxy from a new abstract socket to `connect`, on a thread that lives as
/// long as the tests.
fn proxy(name: &str, connect: &str, connections: usize) -> Address {
    let listen = format!("unix:@inn-proxy-{name}-{}", std::process::id());
    proxy_on(&listen, connect, connections)
}

fn proxy_on(listen: &str, connect: &str, connections: usize) -> Address {
    let listen = Address::parse(listen.as_ref()).unwrap();
    let connect = Address::parse(connect.as_ref()).unwrap();
    let address = listen.clone();
    let (ready, bound) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let door = Door::open(&listen).unwrap();
            ready.send(()).unwrap();
            take_all(door, connect, shared(connections)).await;
        });
    });
    bound.recv().unwrap();
    address
}

fn connect(address: &Address) -> std::os::unix::net::UnixStream {
    let options = sockets::Options {
        blocking: true,
        buffer_bytes: None,
    };
    sockets::dial(address, options, Duration::from_secs(20)).unwrap()
}

fn server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("tcp:{}", listener.local_addr().unwrap());
    (listener, address)
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    stream
}

#[test]
fn command_lines() {
    let options = parsed(&["-n", "3", "--connect-timeout=4", "tcp::80", "vsock:web:80"]);
    let options = options.unwrap();
    assert_eq!((options.connections, options.patience.as_secs()), (3, 4));
    assert_eq!(options.pairs.len(), 1);
    for words in [
        &[][..],
        &["tcp::80"],
        &["tcp::80", "tcp::81", "tcp::82"],
        &["-n", "0", "tcp::80", "tcp::81"],
        &["--what", "tcp::80", "tcp::81"],
        &["tcp::80", "hybrid:/x:1"],
    ] {
        assert!(parsed(words).is_err(), "{words:?}");
    }
}

#[test]
fn each_direction_ends_by_itself() {
    let (listener, address) = server();
    let mut near = connect(&proxy("half", &address, 8));
    let mut far = accept(&listener);
    near.write_all(b"question").unwrap();
    near.shutdown(std::net::Shutdown::Write).unwrap();
    let mut question = String::new();
    far.read_to_string(&mut question).unwrap();
    assert_eq!(question, "question");
    let answer = vec![7; 3 << 20];
    let sent = answer.clone();
    let sender = thread::spawn(move || far.write_all(&sent));
    let mut got = Vec::new();
    near.read_to_end(&mut got).unwrap();
    assert!(got == answer);
    sender.join().unwrap().unwrap();
}

#[test]
fn a_side_that_does_not_read_keeps_what_it_says() {
    let (listener, address) = server();
    let mut near = connect(&proxy("early", &address, 8));
    let mut far = accept(&listener);
    // An answer before the question is over, whose rest nobody reads.
    far.shutdown(std::net::Shutdown::Read).unwrap();
    near.write_all(&[1; 1000]).unwrap();
    far.write_all(b"too long").unwrap();
    far.shutdown(std::net::Shutdown::Write).unwrap();
    let mut got = String::new();
    near.read_to_string(&mut got).unwrap();
    assert_eq!(got, "too long");
}

#[test]
fn one_that_nobody_reads_delays_no_other() {
    let (listener, address) = server();
    let proxy = proxy("unread", &address, 8);
    let mut stuck = connect(&proxy);
    let _unread = accept(&listener);
    stuck.set_nonblocking(true).unwrap();
    // Until nothing more fits: into either socket, or the proxy between.
    let full = |error: io::Error| error.kind() == io::ErrorKind::WouldBlock;
    while !stuck.write_all(&[0; 65536]).is_err_and(full) {}
    for _ in 0..3 {
        let mut near = connect(&proxy);
        let mut far = accept(&listener);
        near.write_all(b"x").unwrap();
        let mut byte = [0];
        far.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }
}

#[test]
fn what_is_over_the_limit_waits() {
    let (listener, address) = server();
    let proxy = proxy("limit", &address, 1);
    let first = connect(&proxy);
    let far = accept(&listener);
    let mut second = connect(&proxy);
    second.write_all(b"later").unwrap();
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err(), "one at a time");
    listener.set_nonblocking(false).unwrap();
    drop((first, far));
    let mut byte = [0; 5];
    accept(&listener).read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"later");
}

#[test]
fn where_nobody_listens_the_connection_ends() {
    let (listener, address) = server();
    drop(listener);
    let mut near = connect(&proxy("refused", &address, 8));
    let mut rest = Vec::new();
    assert_eq!(near.read_to_end(&mut rest).unwrap_or(0), 0);
}

#[test]
fn a_broken_side_is_a_reset_for_the_other() {
    let (listener, address) = server();
    let (free, listen) = server();
    drop(free);
    proxy_on(&listen, &address, 8);
    let mut near = TcpStream::connect(listen.trim_start_matches("tcp:")).unwrap();
    let far = accept(&listener);
    let at_once = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&far, sockopt::Linger, &at_once).unwrap();
    drop(far);
    let error = near.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_socket_that_was_left_is_replaced_and_a_live_one_is_not() {
    let folder = std::env::temp_dir().join(format!("inn-proxy-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("s.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let address = Address::Unix(path.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let door = Door::open(&address).unwrap();
        let error = Door::open(&address).err().unwrap();
        assert!(error.contains("somebody else listens there"), "{error}");
        drop(door);
        assert!(!path.exists());
    });
    std::fs::remove_dir(&folder).unwrap();
}

#[test]
fn complaints_come_once_in_a_while() {
    let complaints = Complaints::default();
    let now = Instant::now();
    let line = |text: &str, after| complaints.line(text.to_owned(), now + after);
    assert_eq!(line("a", Duration::ZERO).as_deref(), Some("a"));
    assert_eq!(line("a", Duration::from_secs(1)), None);
    assert_eq!(line("b", Duration::from_secs(1)).as_deref(), Some("b"));
    let later = line("a", Duration::from_secs(6)).unwrap();
    assert_eq!(later, "a (and 1 times before)");
    for number in 0..REMEMBERED * 2 {
        line(&number.to_string(), Duration::ZERO);
    }
    assert!(complaints.0.lock().unwrap().len() <= REMEMBERED);
}

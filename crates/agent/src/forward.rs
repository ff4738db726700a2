// SPDX-License-Identifier: Apache-2.0
//! Forwarded connections: the host names a port of the guest on vsock port
//! 9002, and the connection becomes one to that port.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use inn_wire::forward::{ForwardRequest, ForwardResponse, Protocol};
use inn_wire::frame::{FrameDecoder, encode};
use nix::errno::Errno;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::stream::Stream;
use crate::transport::Listener;

/// Port of forwarded connections.
pub const PORT: u32 = 9002;

/// Connections at the same time; each holds two descriptors and two buffers.
const MAX_CONNECTIONS: usize = 256;

const BUFFER: usize = 32 << 10;

/// Largest request: an address and two numbers.
const REQUEST_LIMIT: usize = 256;

/// For the request, and then for the connection inside the guest.
const PATIENCE: Duration = Duration::from_secs(10);

/// Serves connections until the program ends.
pub async fn serve(listener: Listener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let mut stream = listener.accept().await;
        let slot = Arc::clone(&slots).try_acquire_owned();
        tokio::spawn(async move {
            let opened = match &slot {
                Ok(_) => open(&stream).await,
                Err(_) => Err(Errno::EAGAIN),
            };
            let answer = ForwardResponse {
                error_number: opened.as_ref().err().map_or(0, |errno| *errno as i32),
            };
            let Ok(frame) = encode(&answer, REQUEST_LIMIT) else {
                return;
            };
            if stream.write_all(&frame).await.is_ok() {
                if let Ok(mut inner) = opened {
                    // Each end's end of file is passed on; a broken side ends both.
                    let _ = copy_bidirectional_with_sizes(&mut stream, &mut inner, BUFFER, BUFFER)
                        .await;
                }
            }
        });
    }
}

async fn open(stream: &Stream) -> nix::Result<TcpStream> {
    let request = timeout(PATIENCE, receive(stream))
        .await
        .map_err(|_| Errno::ETIMEDOUT)??;
    let address = check(&request)?;
    timeout(PATIENCE, TcpStream::connect(address))
        .await
        .map_err(|_| Errno::ETIMEDOUT)?
        .map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
}

async fn receive(stream: &Stream) -> nix::Result<ForwardRequest> {
    let mut decoder = FrameDecoder::new(REQUEST_LIMIT);
    let mut buffer = [0; REQUEST_LIMIT];
    loop {
        let next = decoder.next_message().map_err(|_| Errno::EBADMSG)?;
        if let Some(request) = next {
            // The host waits for the answer before it sends bytes.
            return if decoder.buffered() == 0 {
                Ok(request)
            } else {
                Err(Errno::EBADMSG)
            };
        }
        match stream.read_some(&mut buffer).await {
            Ok(count @ 1..) => decoder.feed(buffer.get(..count).unwrap_or_default()),
            _ => return Err(Errno::ECONNRESET),
        }
    }
}

/// Where the request leads, if that is the guest itself: the host must not be
/// given a way into networks that only the guest is part of.
fn check(request: &ForwardRequest) -> nix::Result<SocketAddr> {
    if request.protocol() != Protocol::Tcp {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let number = u16::try_from(request.port).unwrap_or(0);
    if number == 0 {
        return Err(Errno::EINVAL);
    }
    let address: IpAddr = match request.address.as_str() {
        "" => Ipv4Addr::LOCALHOST.into(),
        text => text.parse().map_err(|_| Errno::EINVAL)?,
    };
    let address = match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        other => other,
    };
    if address.to_canonical().is_loopback() || is_own(address.to_canonical()) {
        Ok(SocketAddr::new(address, number))
    } else {
        Err(Errno::EADDRNOTAVAIL)
    }
}

fn is_own(wanted: IpAddr) -> bool {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return false;
    };
    interfaces
        .filter_map(|interface| interface.address)
        .any(|address| {
            let v4 = address.as_sockaddr_in().map(|own| IpAddr::V4(own.ip()));
            let v6 = address.as_sockaddr_in6().map(|own| IpAddr::V6(own.ip()));
            v4.or(v6) == Some(wanted)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(address: &str, port: u32) -> ForwardRequest {
        ForwardRequest {
            protocol: Protocol::Tcp.into(),
            address: address.to_owned(),
            port,
        }
    }

    #[test]
    fn only_the_guest_itself() {
        let checked = |address: &str| check(&request(address, 80)).map(|to| to.to_string());
        assert_eq!(checked(""), Ok("127.0.0.1:80".to_owned()));
        assert_eq!(checked("0.0.0.0"), Ok("127.0.0.1:80".to_owned()));
        assert_eq!(checked("::"), Ok("[::1]:80".to_owned()));
        assert_eq!(checked("127.9.9.9"), Ok("127.9.9.9:80".to_owned()));
        assert_eq!(checked("192.0.2.1"), Err(Errno::EADDRNOTAVAIL));
        assert_eq!(checked("::ffff:192.0.2.1"), Err(Errno::EADDRNOTAVAIL));
        assert_eq!(checked("224.0.0.1"), Err(Errno::EADDRNOTAVAIL));
        assert_eq!(checked("localhost"), Err(Errno::EINVAL));
    }

    #[test]
    fn ports_and_protocols() {
        for port in [0, 65536, u32::MAX] {
            assert_eq!(check(&request("", port)), Err(Errno::EINVAL));
        }
        let other = ForwardRequest {
            protocol: Protocol::Udp.into(),
            ..request("", 80)
        };
        assert_eq!(check(&other), Err(Errno::EPROTONOSUPPORT));
    }
}

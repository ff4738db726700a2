// SPDX-License-Identifier: Apache-2.0
//! Where a stream leads, as a command line says it: `tcp:127.0.0.1:80`,
//! `vsock:web:80`, `unix:/run/x.sock`, `hybrid:/run/innkeeper/web/vsock.sock:80`.

use std::ffi::OsStr;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::hosts::Hosts;

/// The longest path of a Unix socket (`sun_path` of unix(7), with its end).
const PATH_MAX: usize = 107;

/// One end of a stream, not looked up yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// TCP. No host: every address to listen on, the loopback to connect to.
    Tcp { host: String, port: u16 },
    /// vsock. No peer: everybody to listen for, nobody to connect to.
    Vsock { peer: String, port: u32 },
    /// A Unix socket; a path that begins with `@` is an abstract name.
    Unix(PathBuf),
    /// A guest's port, seen from its host: `CONNECT <port>` on its `vsock.sock`.
    Hybrid { path: PathBuf, port: u32 },
}

impl Address {
    /// Reads what somebody typed; an error is a sentence about it.
    pub fn parse(text: &OsStr) -> Result<Self, String> {
        let shown = text.to_string_lossy();
        let wrong = |why: &str| format!("{shown}: {why}");
        let (kind, rest) = shown
            .split_once(':')
            .ok_or_else(|| wrong("write tcp:HOST:PORT, vsock:PEER:PORT or unix:PATH"))?;
        match kind {
            "tcp" => {
                let (host, port) = split(rest).ok_or_else(|| wrong("write tcp:HOST:PORT"))?;
                let port = port.parse().ok().filter(|port| *port > 0);
                let port = port.ok_or_else(|| wrong("a TCP port is a number from 1 to 65535"))?;
                let host = host.trim_start_matches('[').trim_end_matches(']');
                Ok(Self::Tcp {
                    host: host.to_owned(),
                    port,
                })
            }
            "vsock" => {
                let (peer, port) = split(rest).ok_or_else(|| wrong("write vsock:PEER:PORT"))?;
                let port = vsock_port(port).ok_or_else(|| wrong(VSOCK_PORT))?;
                Ok(Self::Vsock {
                    peer: peer.to_owned(),
                    port,
                })
            }
            "unix" => Ok(Self::Unix(
                path(text, kind.len() + 1, usize::MAX).map_err(wrong)?,
            )),
            "hybrid" => {
                let (before, port) = split(rest).ok_or_else(|| wrong("write hybrid:PATH:PORT"))?;
                let port = vsock_port(port).ok_or_else(|| wrong(VSOCK_PORT))?;
                let path = path(text, kind.len() + 1, before.len()).map_err(wrong)?;
                Ok(Self::Hybrid { path, port })
            }
            _ => Err(wrong("an address begins with tcp:, vsock: or unix:")),
        }
    }

    /// The IP address and port of a TCP end.
    pub fn inet(host: &str, hosts: &Hosts, default: IpAddr) -> Result<IpAddr, String> {
        let found = match host {
            "" => return Ok(default),
            "localhost" => Some(Ipv4Addr::LOCALHOST.into()),
            text => text.parse().ok().or_else(|| hosts.address(text)),
        };
        let found = found.ok_or_else(|| {
            format!(
                "{host}: not in /etc/hosts, and no other names are known here: write its address"
            )
        })?;
        match super::hosts::cid_of(found) {
            None => Ok(found),
            Some(_) => Err(format!(
                "{host} is a machine of the topology, which has no network: write vsock:{host}:PORT"
            )),
        }
    }
}

const VSOCK_PORT: &str = "a vsock port is a number from 0 to 4294967294";

fn vsock_port(text: &str) -> Option<u32> {
    // The last number is VMADDR_PORT_ANY.
    text.parse().ok().filter(|port| *port != u32::MAX)
}

/// What stands before and behind the last colon.
fn split(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once(':')
}

/// The path in `text` from byte `start` on, of at most `len` bytes.
fn path(text: &OsStr, start: usize, len: usize) -> Result<PathBuf, &'static str> {
    let bytes = text.as_bytes().get(start..).unwrap_or_default();
    let bytes = &bytes[..len.min(bytes.len())];
    match bytes.len() {
        0 => Err("a path is missing"),
        1..=PATH_MAX => Ok(PathBuf::from(OsStr::from_bytes(bytes))),
        _ => Err("the path of a Unix socket has at most 107 bytes"),
    }
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(out, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(out, "tcp:{host}:{port}"),
            Self::Vsock { peer, port } => write!(out, "vsock:{peer}:{port}"),
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Hybrid { path, port } => write!(out, "hybrid:{}:{port}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Address, String> {
        Address::parse(OsStr::new(text))
    }

    #[test]
    fn every_kind_reads_back_as_it_was_written() {
        for text in [
            "tcp:127.0.0.1:80",
            "tcp::8080",
            "tcp:[::1]:22",
            "tcp:web:1",
            "vsock:web:80",
            "vsock::22",
            "vsock:1024:4294967294",
            "unix:/run/a b.sock",
            "unix:@abstract",
            "unix:/run/with:colon",
            "hybrid:/run/innkeeper/web/vsock.sock:5001",
        ] {
            assert_eq!(parsed(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, said) in [
            ("web:80", "begins with"),
            ("80", "write tcp:HOST:PORT"),
            ("tcp:80", "write tcp:HOST:PORT"),
            ("tcp:h:0", "1 to 65535"),
            ("tcp:h:65536", "1 to 65535"),
            ("vsock:web:", "0 to 4294967294"),
            ("vsock:web:4294967295", "0 to 4294967294"),
            ("vsock:80", "write vsock:PEER:PORT"),
            ("unix:", "missing"),
            ("hybrid:/run/x", "write hybrid:PATH:PORT"),
        ] {
            let error = parsed(text).unwrap_err();
            assert!(error.starts_with(text) && error.contains(said), "{error}");
        }
        let long = format!("unix:/{}", "x".repeat(PATH_MAX));
        assert!(parsed(&long).unwrap_err().contains("107"));
    }

    #[test]
    fn tcp_leads_to_no_machine_of_the_topology() {
        let hosts = Hosts::parse("240.0.4.0 web.inn\n192.0.2.7 printer\n");
        let any = IpAddr::from(Ipv4Addr::UNSPECIFIED);
        let inet = |host: &str| Address::inet(host, &hosts, any);
        assert_eq!(inet(""), Ok(any));
        assert_eq!(inet("printer"), Ok(Ipv4Addr::new(192, 0, 2, 7).into()));
        assert_eq!(inet("::1"), Ok("::1".parse().unwrap()));
        assert!(inet("web.inn").unwrap_err().contains("vsock:web.inn:PORT"));
        assert!(inet("240.0.4.0").unwrap_err().contains("vsock:"));
        assert!(inet("nobody").unwrap_err().contains("/etc/hosts"));
    }
}

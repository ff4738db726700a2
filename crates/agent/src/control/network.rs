// SPDX-License-Identifier: Apache-2.0
//! ConfigureNetwork: one IPv4 interface with a default route, by the classic
//! ioctls: one address on one interface needs no netlink library.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};
use tonic::Status;

use super::proto::IPv4Config;

/// The interface, if it exists; else the first one that is no loopback.
const PREFERRED: &str = "eth0";

const LOOPBACK: &str = "lo";

nix::ioctl_readwrite_bad!(get_flags, libc::SIOCGIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_flags, libc::SIOCSIFFLAGS, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_address, libc::SIOCSIFADDR, libc::ifreq);
nix::ioctl_write_ptr_bad!(set_netmask, libc::SIOCSIFNETMASK, libc::ifreq);
nix::ioctl_write_ptr_bad!(add_route, libc::SIOCADDRT, libc::rtentry);

/// A checked configuration.
#[derive(Debug, PartialEq, Eq)]
struct Ipv4 {
    address: Ipv4Addr,
    netmask: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
}

/// Configures the guest's interface and brings it up.
pub fn configure(config: Option<IPv4Config>) -> Result<(), Status> {
    let config = config.ok_or_else(|| Status::invalid_argument("no ipv4_config"))?;
    let config = check(&config).map_err(Status::invalid_argument)?;
    let name = interface(Path::new("/sys/class/net"))
        .ok_or_else(|| Status::failed_precondition("the guest has no network interface"))?;
    apply(&name, &config)
        .map_err(|(step, errno)| Status::internal(format!("{name}: {step}: {}", errno.desc())))
}

/// Brings the loopback interface up. The kernel gives it 127.0.0.1 by itself.
pub fn bring_loopback_up() -> nix::Result<()> {
    Socket::open()?.bring_up(LOOPBACK)
}

/// The message's numbers are bytes in network order, as in `struct in_addr`,
/// moved as a little-endian integer.
fn address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(number.to_le_bytes())
}

fn check(config: &IPv4Config) -> Result<Ipv4, String> {
    let [own, netmask, gateway] = [config.address, config.netmask, config.gateway].map(address);
    if own.is_unspecified() || own.is_multicast() || own.is_broadcast() {
        return Err(format!("{own} cannot be an address of an interface"));
    }
    let mask = u32::from(netmask);
    if mask == 0 || mask.leading_ones() + mask.trailing_zeros() != u32::BITS {
        return Err(format!("{netmask} is no network mask"));
    }
    let gateway = (!gateway.is_unspecified()).then_some(gateway);
    match gateway {
        Some(gateway) if (u32::from(gateway) ^ u32::from(own)) & mask != 0 => Err(format!(
            "gateway {gateway} is not in the network of {own}, {netmask}"
        )),
        _ => Ok(Ipv4 {
            address: own,
            netmask,
            gateway,
        }),
    }
}

fn interface(class: &Path) -> Option<String> {
    let names = std::fs::read_dir(class).ok()?;
    let mut names: Vec<String> = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    // Bonding puts a plain file here.
    names.retain(|name| name != LOOPBACK && class.join(name).is_dir());
    names.sort_by_key(|name| (name != PREFERRED, name.clone()));
    names.into_iter().next()
}

fn apply(name: &str, config: &Ipv4) -> Result<(), (&'static str, Errno)> {
    let at = |step| move |errno| (step, errno);
    let socket = Socket::open().map_err(at("socket"))?;
    socket
        .set_address(name, config.address)
        .map_err(at("address"))?;
    socket
        .set_netmask(name, config.netmask)
        .map_err(at("netmask"))?;
    socket.bring_up(name).map_err(at("up"))?;
    match config
        .gateway
        .map(|gateway| socket.add_default_route(gateway))
    {
        // The same call again finds its own route.
        None | Some(Ok(()) | Err(Errno::EEXIST)) => Ok(()),
        Some(Err(errno)) => Err(("default route", errno)),
    }
}

/// Any IPv4 socket takes these ioctls.
struct Socket(OwnedFd);

impl Socket {
    fn open() -> nix::Result<Self> {
        socket(
            AddressFamily::Inet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            None,
        )
        .map(Self)
    }

    fn bring_up(&self, name: &str) -> nix::Result<()> {
        let mut request = request_for(name)?;
        // SAFETY: both ioctls take one ifreq; reading the union's flags is
        // sound after SIOCGIFFLAGS wrote them.
        unsafe {
            get_flags(self.0.as_raw_fd(), &raw mut request)?;
            request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
            set_flags(self.0.as_raw_fd(), &raw const request).map(drop)
        }
    }

    fn set_address(&self, name: &str, address: Ipv4Addr) -> nix::Result<()> {
        let mut request = request_for(name)?;
        request.ifr_ifru.ifru_addr = socket_address(address);
        // SAFETY: SIOCSIFADDR reads one ifreq with its address.
        unsafe { set_address(self.0.as_raw_fd(), &raw const request) }.map(drop)
    }

    fn set_netmask(&self, name: &str, netmask: Ipv4Addr) -> nix::Result<()> {
        let mut request = request_for(name)?;
        request.ifr_ifru.ifru_netmask = socket_address(netmask);
        // SAFETY: SIOCSIFNETMASK reads one ifreq with its mask.
        unsafe { set_netmask(self.0.as_raw_fd(), &raw const request) }.map(drop)
    }

    fn add_default_route(&self, gateway: Ipv4Addr) -> nix::Result<()> {
        // SAFETY: rtentry is plain integers and pointers; all zero means none.
        let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
        route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
        route.rt_gateway = socket_address(gateway);
        route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
        // SAFETY: SIOCADDRT reads one rtentry, whose rt_dev is null.
        unsafe { add_route(self.0.as_raw_fd(), &raw const route) }.map(drop)
    }
}

fn request_for(name: &str) -> nix::Result<libc::ifreq> {
    // SAFETY: ifreq is a byte array and a union of plain data; all zero is an
    // empty name and no flags.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero and ends the name.
    if name.len() >= request.ifr_name.len() {
        return Err(Errno::ENODEV);
    }
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = byte as libc::c_char;
    }
    Ok(request)
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let mut data = [0; 14];
    // After two bytes of port come the four bytes of the address.
    for (target, byte) in data.iter_mut().skip(2).zip(address.octets()) {
        *target = byte as libc::c_char;
    }
    libc::sockaddr {
        sa_family: libc::AF_INET as libc::sa_family_t,
        sa_data: data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(address: [u8; 4], netmask: [u8; 4], gateway: [u8; 4]) -> IPv4Config {
        let number = u32::from_le_bytes;
        IPv4Config {
            address: number(address),
            netmask: number(netmask),
            gateway: number(gateway),
        }
    }

    #[test]
    fn good_ones() {
        let checked = check(&config([10, 0, 2, 15], [255, 255, 255, 0], [10, 0, 2, 2])).unwrap();
        assert_eq!(checked.address, Ipv4Addr::new(10, 0, 2, 15));
        assert_eq!(checked.gateway, Some(Ipv4Addr::new(10, 0, 2, 2)));
        let alone = check(&config([10, 0, 2, 15], [255; 4], [0; 4])).unwrap();
        assert_eq!(alone.gateway, None);
    }

    #[test]
    fn bad_ones() {
        for (address, netmask, gateway) in [
            ([0; 4], [255, 0, 0, 0], [0; 4]),
            ([224, 0, 0, 1], [255, 0, 0, 0], [0; 4]),
            ([10, 0, 0, 1], [255, 0, 255, 0], [0; 4]),
            ([10, 0, 0, 1], [0; 4], [0; 4]),
            ([10, 0, 0, 1], [0, 0, 0, 255], [0; 4]),
            ([10, 0, 0, 1], [255, 255, 255, 0], [10, 0, 1, 1]),
        ] {
            assert!(
                check(&config(address, netmask, gateway)).is_err(),
                "{address:?} {netmask:?}"
            );
        }
    }

    #[test]
    fn eth0_is_preferred() {
        let dir = std::env::temp_dir().join(format!("inn-net-{}", std::process::id()));
        let add = |name: &str| std::fs::create_dir_all(dir.join(name)).unwrap();
        add("lo");
        assert_eq!(interface(&dir), None);
        add("enp1s0");
        add("br0");
        assert_eq!(interface(&dir).as_deref(), Some("br0"));
        add("eth0");
        assert_eq!(interface(&dir).as_deref(), Some("eth0"));
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn names_that_do_not_fit() {
        assert!(request_for("a-name-of-16-byt").is_err());
        assert!(request_for("a-name-of-15-by").is_ok());
    }
}

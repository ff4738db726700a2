// SPDX-License-Identifier: Apache-2.0
//! Python bindings: `innkeeper._core`. Types are in `python/innkeeper/_core.pyi`.
//!
//! Thin on purpose: it turns integers into owned descriptors and errors into
//! exceptions. The device's thread never touches the interpreter.

mod rings;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use inn_vsock::{Config, Decision, Error, Peer, Target, Verdict};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

/// One guest's vhost-user-vsock device, served by native threads.
#[pyclass(frozen, module = "innkeeper._core")]
struct VsockDevice(inn_vsock::VsockDevice);

#[pymethods]
impl VsockDevice {
    #[new]
    #[pyo3(signature = (*, guest_cid, vhost_fd, hybrid_fd, hybrid_path, max_connections = 1024))]
    fn new(
        py: Python<'_>,
        guest_cid: &Bound<'_, PyAny>,
        vhost_fd: RawFd,
        hybrid_fd: RawFd,
        hybrid_path: String,
        max_connections: usize,
    ) -> PyResult<Self> {
        // Both are taken before either is judged: they pass to us on error too.
        let (vhost, hybrid) = (take(vhost_fd), take(hybrid_fd));
        let (vhost, hybrid) = (vhost?, hybrid?);
        // An integer that fits no u64 is out of range like any other.
        let out_of_range =
            |_| PyValueError::new_err(format!("guest CID {guest_cid} is out of range"));
        let guest_cid: u64 = guest_cid.extract().map_err(out_of_range)?;
        let config = Config {
            guest_cid,
            hybrid_path,
            max_connections,
        };
        py.detach(|| inn_vsock::VsockDevice::start(config, vhost, hybrid))
            .map(Self)
            .map_err(exception)
    }

    /// Connect every client of a listening Unix socket straight to a guest port.
    fn publish(&self, py: Python<'_>, listener_fd: RawFd, guest_port: u32) -> PyResult<()> {
        let listener = take(listener_fd)?;
        py.detach(|| self.0.publish(listener, guest_port))
            .map_err(exception)
    }

    /// Serve another guest's device on a listening Unix socket, while `set_peers` has it.
    fn link(&self, py: Python<'_>, listener_fd: RawFd, peer_cid: u64) -> PyResult<()> {
        let listener = take(listener_fd)?;
        py.detach(|| self.0.link(listener, peer_cid))
            .map_err(exception)
    }

    /// Replace what is allowed between this guest and others, and the host's services;
    /// in force on return.
    fn set_peers(
        &self,
        py: Python<'_>,
        peers: Vec<PeerRow>,
        services: Vec<(u32, String)>,
    ) -> PyResult<()> {
        let table: HashMap<u64, Peer> = peers.into_iter().map(peer).collect();
        let services = services
            .into_iter()
            .map(|(port, target)| Ok((port, Target::parse(&target)?)))
            .collect::<Result<HashMap<u32, Target>, Error>>()
            .map_err(exception)?;
        py.detach(|| self.0.set_peers(table, services))
            .map_err(exception)
    }

    /// What was allowed and refused since the last call, and how many were lost.
    fn take_decisions(&self) -> (Vec<DecisionRow>, u64) {
        let (decisions, lost) = self.0.decisions().take();
        (decisions.into_iter().map(decision).collect(), lost)
    }

    /// A descriptor that is readable while decisions wait; the device keeps it.
    fn decisions_fd(&self) -> RawFd {
        self.0.decisions().ready().as_raw_fd()
    }

    /// Counters since start.
    fn stats(&self) -> BTreeMap<&'static str, u64> {
        let stats = self.0.stats();
        BTreeMap::from([
            ("connections_open", stats.connections_open),
            ("connections_total", stats.connections_total),
            ("refused", stats.refused),
            ("reset", stats.reset),
            ("bytes_to_guest", stats.bytes_to_guest),
            ("bytes_to_host", stats.bytes_to_host),
            ("packets_dropped", stats.packets_dropped),
            ("forged_cid", stats.forged_cid),
            ("credit_violations", stats.credit_violations),
            ("denied", stats.denied),
            ("cut", stats.cut),
        ])
    }

    /// Stop the threads, reset all connections, close all descriptors. Idempotent.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

type Ranges = Vec<(u32, u32)>;
/// CID, path of the link, ports to connect to, ports to accept on, most streams.
type PeerRow = (u64, String, Ranges, Ranges, usize);
/// CID of the peer, whether this guest asked, port, asker's port, verdict.
type DecisionRow = (u64, bool, u32, u32, &'static str);

fn peer((cid, path, connect, accept, max_streams): PeerRow) -> (u64, Peer) {
    let ranges = |rows: Ranges| rows.into_iter().map(|(first, last)| first..=last).collect();
    let peer = Peer {
        path,
        connect: ranges(connect),
        accept: ranges(accept),
        max_streams,
    };
    (cid, peer)
}

fn decision(one: Decision) -> DecisionRow {
    let verdict = match one.verdict {
        Verdict::Allowed => "allowed",
        Verdict::Denied => "denied",
        Verdict::OverQuota => "over-quota",
        Verdict::Cut => "cut",
    };
    (one.peer_cid, one.outgoing, one.port, one.from_port, verdict)
}

/// Takes ownership of a descriptor that Python gave away.
fn take(fd: RawFd) -> PyResult<OwnedFd> {
    // SAFETY: fcntl(F_GETFD) takes any integer and changes nothing.
    if unsafe { libc::fcntl(fd, libc::F_GETFD) } < 0 {
        let text = format!("descriptor {fd} is not open");
        return Err(PyOSError::new_err((libc::EBADF, text)));
    }
    // SAFETY: it is open, and by the documented contract the caller no longer
    // owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn exception(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::InvalidCid(_)
        | Error::PathTooLong(_)
        | Error::PathInvalid(_)
        | Error::BadTarget(_) => PyValueError::new_err(text),
        Error::Descriptor { source, .. } | Error::Start(source) => match source.raw_os_error() {
            Some(code) => PyOSError::new_err((code, text)),
            None => PyOSError::new_err(text),
        },
        Error::Closed => PyOSError::new_err((libc::EBADF, text)),
    }
}

/// The native part of innkeeper.
/// Frequency of the time-stamp counter in kHz, counted over `window_ms`.
#[pyfunction]
fn tsc_khz(py: Python<'_>, window_ms: u64) -> u64 {
    py.detach(|| {
        let (began, first) = (Instant::now(), tsc());
        std::thread::sleep(Duration::from_millis(window_ms.clamp(1, 1000)));
        let (ticks, elapsed) = (tsc().wrapping_sub(first), began.elapsed());
        let khz = u128::from(ticks) * 1_000_000 / elapsed.as_nanos().max(1);
        u64::try_from(khz).unwrap_or(0)
    })
}

#[cfg(target_arch = "x86_64")]
fn tsc() -> u64 {
    // SAFETY: RDTSC exists on every x86-64 processor and touches no memory. A
    // kernel that forbids it (PR_TSC_SIGSEGV) does so on the process's own wish.
    unsafe { std::arch::x86_64::_rdtsc() }
}

/// No such counter: unknown, which is said as 0.
#[cfg(not(target_arch = "x86_64"))]
fn tsc() -> u64 {
    0
}

#[pymodule]
fn _core(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<VsockDevice>()?;
    module.add_class::<rings::RingBoard>()?;
    module.add_function(wrap_pyfunction!(tsc_khz, module)?)
}

// SPDX-License-Identifier: Apache-2.0
//! The ring board, for Python.

use std::os::fd::{AsRawFd, RawFd};

use inn_ringboard::{Config, Decision, Error, Flow, Operation, Outcome, Range, Row, Rules};
use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::take;

/// Carries the rings of one guest, served by a native thread.
#[pyclass(frozen, module = "innkeeper._core")]
pub(crate) struct RingBoard(inn_ringboard::RingBoard);

/// Ports to register, to send to with a share in percent, to query, to notify.
type FlowRow = (Vec<Range>, Vec<(u32, u32, u8)>, Vec<Range>, Vec<Range>);
/// Id of the other domain, path of the link, to its rings, to the guest's rings.
type RuleRow = (u16, String, FlowRow, FlowRow);
/// Rows, wildcard rings of the guest, those of the host, `mac_permissive`.
type RuleTable = (Vec<RuleRow>, Vec<Range>, Vec<Range>, bool);
/// Sender (`None`: anybody), owner, operation, port, sender's port, verdict.
type DecisionRow = (Option<u16>, u16, &'static str, u32, u32, &'static str);

#[pymethods]
impl RingBoard {
    #[new]
    #[pyo3(signature = (*, guest, guest_fd, host_fd, rules))]
    fn new(
        py: Python<'_>,
        guest: u16,
        guest_fd: RawFd,
        host_fd: RawFd,
        rules: RuleTable,
    ) -> PyResult<Self> {
        // Both are taken before either is judged: they pass to us on error too.
        let (programs, host) = (take(guest_fd), take(host_fd));
        let (programs, host) = (programs?, host?);
        let config = Config::new(guest, table(rules));
        py.detach(|| inn_ringboard::RingBoard::start(config, programs, host))
            .map(Self)
            .map_err(exception)
    }

    /// Serve another guest's keeper on a listening Unix socket, while the rules have it.
    fn link(&self, py: Python<'_>, listener_fd: RawFd, peer: u16) -> PyResult<()> {
        let listener = take(listener_fd)?;
        py.detach(|| self.0.link(listener, peer)).map_err(exception)
    }

    /// Replace the rules; in force on return.
    fn set_rules(&self, py: Python<'_>, rules: RuleTable) -> PyResult<()> {
        py.detach(|| self.0.set_rules(table(rules)))
            .map_err(exception)
    }

    /// What was allowed and refused since the last call, and how many were lost.
    fn take_decisions(&self) -> (Vec<DecisionRow>, u64) {
        let (decisions, lost) = self.0.decisions().take();
        (decisions.into_iter().map(decision).collect(), lost)
    }

    /// A descriptor that is readable while decisions wait; the board keeps it.
    fn decisions_fd(&self) -> RawFd {
        self.0.decisions().ready().as_raw_fd()
    }

    /// Stop the thread, close all descriptors. Idempotent.
    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

fn table((rows, guest_any, host_any, mac_permissive): RuleTable) -> Rules {
    let flow = |(register, send, query, notify): FlowRow| Flow {
        register,
        send,
        query,
        notify,
    };
    let row = |(id, path, to, from): RuleRow| {
        let (to, from) = (flow(to), flow(from));
        (id, Row { path, to, from })
    };
    Rules {
        rows: rows.into_iter().map(row).collect(),
        guest_any,
        host_any,
        mac_permissive,
    }
}

fn decision(one: Decision) -> DecisionRow {
    let operation = match one.operation {
        Operation::RegisterSingle => "register-single",
        Operation::RegisterAny => "register-any",
        Operation::Send => "send",
        Operation::Query => "query",
        Operation::Notify => "notify",
    };
    let verdict = match one.outcome {
        Outcome::Allowed => "allowed",
        Outcome::Denied => "denied",
        Outcome::Cut => "cut",
    };
    let (port, from_port) = (one.port, one.from_port);
    (one.sender, one.owner, operation, port, from_port, verdict)
}

fn exception(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::InvalidId(_) => PyValueError::new_err(text),
        Error::Descriptor { source, .. } | Error::Start(source) => match source.raw_os_error() {
            Some(code) => PyOSError::new_err((code, text)),
            None => PyOSError::new_err(text),
        },
        Error::Closed => PyOSError::new_err((libc::EBADF, text)),
    }
}

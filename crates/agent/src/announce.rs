// SPDX-License-Identifier: Apache-2.0
//! The announcement: tells the host that the servers listen, keeps the
//! connection as a sign of life, and comes back after every break: a restored
//! guest, a new keeper.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use inn_wire::announce::{
    AgentMessage, DiskCondition, DiskReport, DiskSpace, Disks, Hello, HostMessage, ListeningPort,
    PortProtocol, Ports, Welcome, Zone, agent_message, host_message,
};
use inn_wire::frame::{FrameDecoder, MESSAGE_LIMIT, encode};
use tokio::sync::{Mutex, Notify};
use tokio::time::sleep;

use crate::agent::{Agent, Settings};
use crate::control::timezone;
use crate::disks::report::Condition;
use crate::failures::Failures;
use crate::stream::Stream;
use crate::{clock, console, disks, names, ports};

/// Port the host listens on.
const PORT: u32 = 7777;

/// Pause after the first failed attempt, and the longest one.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// Between two looks at what is listened on.
const PORTS_PAUSE: Duration = Duration::from_millis(500);

/// Between two looks at how full the disks are.
const DISKS_PAUSE: Duration = Duration::from_secs(2);

/// A wall clock this far from the host's is set.
const MAX_DRIFT: Duration = Duration::from_millis(100);

/// The running kernel's release.
pub fn kernel_release() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// Announces until the program ends.
pub async fn run(settings: Settings, agent: Arc<Agent>) {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let hello = Hello {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        kernel_release: kernel_release(),
        is_init: agent.is_init,
        boot_id: boot_id.trim_end().to_owned(),
        started_ns: clock::nanos(settings.started),
        ready_ns: clock::nanos(clock::since_boot()),
        disks: disks::report::load().iter().map(describe_disk).collect(),
    };
    console::say(format_args!(
        "listening {} ms after its start",
        (clock::since_boot().saturating_sub(settings.started)).as_millis()
    ));
    let mut pause = FIRST_RETRY;
    loop {
        // Most attempts fail while no keeper listens: nothing to report.
        if let Ok(stream) = settings.transport.dial(PORT).await {
            let mut connection = Connection::new(&stream, &agent, settings.sets_clock);
            let _ = connection.hold(&hello).await;
            if connection.was_welcome {
                pause = FIRST_RETRY;
            }
        }
        sleep(pause).await;
        pause = LAST_RETRY.min(pause * 2);
    }
}

struct Connection<'a> {
    stream: &'a Stream,
    agent: &'a Agent,
    sets_clock: bool,
    was_welcome: bool,
}

/// What the host asked to be told of.
#[derive(Default)]
struct Wanted {
    ports: Notify,
    disks: Notify,
}

impl<'a> Connection<'a> {
    fn new(stream: &'a Stream, agent: &'a Agent, sets_clock: bool) -> Self {
        Self {
            stream,
            agent,
            sets_clock,
            was_welcome: false,
        }
    }

    /// Says hello, every failure and what it is asked for, listens, until the connection breaks.
    async fn hold(&mut self, hello: &Hello) -> io::Result<()> {
        let ready_ns = clock::nanos(clock::since_boot());
        let hello = Hello {
            ready_ns,
            ..hello.clone()
        };
        send(self.stream, agent_message::Msg::Hello(hello)).await?;
        let (stream, agent) = (self.stream, self.agent);
        let sending = Mutex::new(());
        let wanted = Wanted::default();
        tokio::select! {
            result = self.listen(&wanted) => result,
            result = tell(stream, &sending, &agent.failures) => result,
            result = tell_ports(stream, &sending, &wanted.ports) => result,
            result = tell_disks(stream, &sending, &wanted.disks) => result,
        }
    }

    async fn listen(&mut self, wanted: &Wanted) -> io::Result<()> {
        let mut decoder = FrameDecoder::new(MESSAGE_LIMIT);
        let mut buffer = [0; 512];
        loop {
            let next = decoder.next_message::<HostMessage>();
            match next.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))? {
                Some(HostMessage {
                    msg: Some(host_message::Msg::Welcome(welcome)),
                }) => {
                    self.was_welcome = true;
                    if self.sets_clock {
                        follow_clock(&welcome);
                    }
                }
                Some(HostMessage {
                    msg: Some(host_message::Msg::Shutdown(_)),
                }) => self.agent.request_shutdown(),
                Some(HostMessage {
                    msg: Some(host_message::Msg::Zone(zone)),
                }) => {
                    if self.sets_clock {
                        follow_zone(&zone);
                    }
                }
                Some(HostMessage {
                    msg: Some(host_message::Msg::WatchPorts(_)),
                }) => wanted.ports.notify_one(),
                Some(HostMessage {
                    msg: Some(host_message::Msg::WatchDisks(_)),
                }) => wanted.disks.notify_one(),
                Some(HostMessage {
                    msg: Some(host_message::Msg::RelayLogs(_)),
                }) => self.agent.logs_wanted.notify_one(),
                Some(HostMessage {
                    msg: Some(host_message::Msg::Watched(watched)),
                }) => self.agent.notices.watched(watched),
                Some(HostMessage {
                    msg: Some(host_message::Msg::Changes(changes)),
                }) => self.agent.notices.changes(changes),
                Some(HostMessage {
                    msg: Some(host_message::Msg::Names(told)),
                }) => names::follow(&told, &self.agent.failures),
                Some(HostMessage { msg: None }) => {}
                None => {
                    let count = self.stream.read_some(&mut buffer).await?;
                    if count == 0 {
                        return Ok(());
                    }
                    decoder.feed(buffer.get(..count).unwrap_or_default());
                }
            }
        }
    }
}

/// Sends every failure so far, then each new one. Ends with an error only.
async fn tell(stream: &Stream, sending: &Mutex<()>, failures: &Failures) -> io::Result<()> {
    let mut list = failures.subscribe();
    let mut told = 0;
    loop {
        let news: Vec<_> = list
            .borrow_and_update()
            .iter()
            .skip(told)
            .cloned()
            .collect();
        told += news.len();
        for failure in news {
            let _turn = sending.lock().await;
            send(stream, agent_message::Msg::Failure(failure)).await?;
        }
        if list.changed().await.is_err() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
    }
}

/// Once the host asks, sends what is listened on, and again when it changed.
async fn tell_ports(stream: &Stream, sending: &Mutex<()>, watching: &Notify) -> io::Result<()> {
    watching.notified().await;
    let mut told = None;
    loop {
        let now = ports::listening();
        if told.as_ref() != Some(&now) {
            let list = now.iter().map(describe_port).collect();
            let message = agent_message::Msg::Ports(Ports { ports: list });
            let _turn = sending.lock().await;
            send(stream, message).await?;
            told = Some(now);
        }
        sleep(PORTS_PAUSE).await;
    }
}

/// Once the host asks, sends how full the disks are, and again when that changed.
async fn tell_disks(stream: &Stream, sending: &Mutex<()>, watching: &Notify) -> io::Result<()> {
    watching.notified().await;
    let disks = disks::report::load();
    let mut told = Vec::new();
    loop {
        let now = disks::space::look(&disks);
        if disks::space::differs(&told, &now) {
            let list = now.iter().map(describe_space).collect();
            let message = agent_message::Msg::Disks(Disks { disks: list });
            let _turn = sending.lock().await;
            send(stream, message).await?;
            told = now;
        }
        sleep(DISKS_PAUSE).await;
    }
}

fn describe_space(space: &disks::space::Space) -> DiskSpace {
    DiskSpace {
        serial: space.serial.clone(),
        total_bytes: space.total,
        free_bytes: space.free,
    }
}

fn describe_disk(report: &disks::report::Report) -> DiskReport {
    DiskReport {
        serial: report.serial.clone(),
        condition: match report.condition {
            Condition::Good => DiskCondition::Good,
            Condition::Made => DiskCondition::Made,
            Condition::PartialDataLoss => DiskCondition::PartialDataLoss,
        }
        .into(),
        detail: report.detail.clone(),
    }
}

fn describe_port(port: &ports::Port) -> ListeningPort {
    ListeningPort {
        protocol: match port.protocol {
            ports::Protocol::Tcp => PortProtocol::Tcp,
            ports::Protocol::Udp => PortProtocol::Udp,
        }
        .into(),
        address: port.address.to_string(),
        port: port.number.into(),
        loopback: port.is_loopback(),
    }
}

async fn send(stream: &Stream, message: agent_message::Msg) -> io::Result<()> {
    let frame = encode(&AgentMessage { msg: Some(message) }, MESSAGE_LIMIT)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    stream.write_all(&frame).await
}

fn follow_clock(welcome: &Welcome) {
    let host = Duration::from_nanos(welcome.wall_clock_ns);
    if needs_setting(host, clock::wall()) {
        if let Err(errno) = clock::set_wall(host) {
            console::say(format_args!("clock: {}", errno.desc()));
        }
    }
}

fn follow_zone(zone: &Zone) {
    if let Err(error) = timezone::follow(&zone.name, &zone.tzif) {
        console::say(format_args!("time zone: {error}"));
    }
}

/// A host that does not know the time sends zero.
fn needs_setting(host: Duration, own: Duration) -> bool {
    !host.is_zero() && host.abs_diff(own) > MAX_DRIFT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_drift_stays() {
        let now = Duration::from_secs(1_700_000_000);
        assert!(!needs_setting(now, now + MAX_DRIFT));
        assert!(needs_setting(now, now + MAX_DRIFT * 2));
        assert!(needs_setting(now, Duration::ZERO));
        assert!(!needs_setting(Duration::ZERO, now));
    }
}

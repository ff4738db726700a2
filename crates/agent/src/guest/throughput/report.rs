// SPDX-License-Identifier: Apache-2.0
//! What was measured, as text and as JSON.

use std::fmt::Write;
use std::time::Duration;

use super::protocol::Moved;

/// Version of the JSON objects; fields may be added without a new one.
const VERSION: u32 = 1;

const MIB: f64 = 1_048_576.0;

/// CPU time of this program.
#[derive(Clone, Copy, Default)]
pub struct Cpu {
    pub user: Duration,
    pub system: Duration,
}

impl Cpu {
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }

    fn json(&self) -> String {
        format!(
            r#"{{"user":{:.6},"system":{:.6}}}"#,
            self.user.as_secs_f64(),
            self.system.as_secs_f64()
        )
    }

    fn text(&self) -> String {
        format!(
            "CPU {:.3} s user, {:.3} s system",
            self.user.as_secs_f64(),
            self.system.as_secs_f64()
        )
    }
}

/// Bytes that went one way.
pub struct Transfer {
    pub ours: Moved,
    pub theirs: Moved,
    /// From the request until the other side's answer.
    pub took: Duration,
    /// From here to there.
    pub sent: bool,
    pub buffer_bytes: u32,
    pub digest: bool,
    pub cpu: Cpu,
}

impl Transfer {
    /// Whether as much arrived as was sent, and the same.
    pub fn is_whole(&self) -> bool {
        self.ours.bytes == self.theirs.bytes && self.ours.digest == self.theirs.digest
    }

    fn rate(&self) -> f64 {
        self.ours.bytes as f64 / MIB / self.took.as_secs_f64().max(1e-9)
    }

    pub fn json(&self) -> String {
        let (equal, digest) = if self.digest {
            let digest = hex(&self.ours.digest);
            (self.is_whole().to_string(), format!("\"{digest}\""))
        } else {
            ("null".to_owned(), "null".to_owned())
        };
        format!(
            concat!(
                r#"{{"version":{},"mode":"{}","size_bytes":{},"buffer_bytes":{},"seconds":{:.6},"#,
                r#""mib_per_s":{:.3},"peer_seconds":{:.6},"digest":{},"digests_equal":{},"#,
                r#""cpu_seconds":{}}}"#
            ),
            VERSION,
            if self.sent { "send" } else { "fetch" },
            self.ours.bytes,
            self.buffer_bytes,
            self.took.as_secs_f64(),
            self.rate(),
            self.theirs.took.as_secs_f64(),
            digest,
            equal,
            self.cpu.json(),
        )
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "{} {} bytes in {:.3} s: {:.1} MiB/s; {}",
            if self.sent { "sent" } else { "fetched" },
            self.ours.bytes,
            self.took.as_secs_f64(),
            self.rate(),
            self.cpu.text()
        );
        if self.digest {
            let _ = write!(text, "\nsha256 {}", hex(&self.ours.digest));
        }
        text
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Messages that went there and back.
pub struct RoundTrips {
    /// At least one, shortest first.
    pub times: Vec<Duration>,
    pub size_bytes: u64,
    pub took: Duration,
    pub cpu: Cpu,
}

/// Names of percentiles, and how many of a thousand are not above them.
const PERCENTILES: [(&str, usize); 6] = [
    ("min", 0),
    ("p50", 500),
    ("p90", 900),
    ("p99", 990),
    ("p99.9", 999),
    ("max", 1000),
];

impl RoundTrips {
    fn micros(&self, thousandth: usize) -> f64 {
        let last = self.times.len().saturating_sub(1);
        let at = (last * thousandth).div_ceil(1000);
        self.times
            .get(at)
            .map_or(0.0, |time| time.as_secs_f64() * 1e6)
    }

    fn mean_micros(&self) -> f64 {
        let all: f64 = self.times.iter().map(Duration::as_secs_f64).sum();
        all * 1e6 / self.times.len().max(1) as f64
    }

    pub fn json(&self) -> String {
        let mut trips = String::new();
        for (name, thousandth) in PERCENTILES {
            let _ = write!(trips, r#""{name}":{:.3},"#, self.micros(thousandth));
        }
        format!(
            concat!(
                r#"{{"version":{},"mode":"ping","size_bytes":{},"count":{},"seconds":{:.6},"#,
                r#""round_trip_us":{{{}"mean":{:.3}}},"cpu_seconds":{}}}"#
            ),
            VERSION,
            self.size_bytes,
            self.times.len(),
            self.took.as_secs_f64(),
            trips,
            self.mean_micros(),
            self.cpu.json(),
        )
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "{} round trips of {} bytes in {:.3} s; {}\nmicroseconds:",
            self.times.len(),
            self.size_bytes,
            self.took.as_secs_f64(),
            self.cpu.text()
        );
        for (name, thousandth) in PERCENTILES {
            let _ = write!(text, " {name} {:.1}", self.micros(thousandth));
        }
        let _ = write!(text, " mean {:.1}", self.mean_micros());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let trips = RoundTrips {
            times: (0..=1000).map(Duration::from_micros).collect(),
            size_bytes: 1,
            took: Duration::from_secs(1),
            cpu: Cpu::default(),
        };
        for (name, thousandth) in PERCENTILES {
            assert!(
                (trips.micros(thousandth) - thousandth as f64).abs() < 1e-6,
                "{name}"
            );
        }
        let json = trips.json();
        assert!(json.contains(r#""p99":990.000,"#), "{json}");
        assert!(json.contains(r#""mean":500.000}"#), "{json}");
        let one = RoundTrips {
            times: vec![Duration::from_micros(5)],
            ..trips
        };
        assert!(
            one.text().ends_with("p99.9 5.0 max 5.0 mean 5.0"),
            "{}",
            one.text()
        );
    }

    #[test]
    fn a_transfer_without_digest_says_null() {
        let moved = Moved {
            bytes: 1 << 20,
            ..Moved::default()
        };
        let transfer = Transfer {
            ours: moved,
            theirs: moved,
            took: Duration::from_millis(500),
            sent: true,
            buffer_bytes: 1,
            digest: false,
            cpu: Cpu::default(),
        };
        let json = transfer.json();
        assert!(json.contains(r#""mib_per_s":2.000"#), "{json}");
        assert!(json.contains(r#""digests_equal":null"#), "{json}");
        let other = Moved {
            digest: [1; 32],
            ..moved
        };
        let broken = Transfer {
            theirs: other,
            digest: true,
            ..transfer
        };
        assert!(!broken.is_whole());
        assert!(broken.json().contains(r#""digests_equal":false"#));
    }
}

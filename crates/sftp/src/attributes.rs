// SPDX-License-Identifier: Apache-2.0
//! File attributes as they travel, and the line of `ls -l` that goes with a name.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use crate::packet::{Builder, Fields, Malformed};

const SIZE: u32 = 1;
const OWNER: u32 = 2;
const PERMISSIONS: u32 = 4;
const TIMES: u32 = 8;
const EXTENDED: u32 = 0x8000_0000;

/// What a client says or asks of a file; `None` is not mentioned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Length in bytes.
    pub size: Option<u64>,
    /// User and group.
    pub owner: Option<(u32, u32)>,
    /// `st_mode`.
    pub permissions: Option<u32>,
    /// Seconds since the epoch: last access, last change.
    pub times: Option<(u32, u32)>,
}

impl Attributes {
    /// Takes attributes off a packet.
    pub fn read(fields: &mut Fields<'_>) -> Result<Self, Malformed> {
        let flags = fields.u32()?;
        let has = |flag: u32| flags & flag != 0;
        let mut found = Self::default();
        if has(SIZE) {
            found.size = Some(fields.u64()?);
        }
        if has(OWNER) {
            found.owner = Some((fields.u32()?, fields.u32()?));
        }
        if has(PERMISSIONS) {
            found.permissions = Some(fields.u32()?);
        }
        if has(TIMES) {
            found.times = Some((fields.u32()?, fields.u32()?));
        }
        if has(EXTENDED) {
            // Each pair takes eight bytes at least, so the packet's end bounds this.
            for _ in 0..fields.u32()? {
                fields.string()?;
                fields.string()?;
            }
        }
        Ok(found)
    }

    /// Adds them to a packet.
    pub fn write(&self, to: &mut Builder) {
        let flag = |has: bool, flag: u32| if has { flag } else { 0 };
        to.u32(
            flag(self.size.is_some(), SIZE)
                | flag(self.owner.is_some(), OWNER)
                | flag(self.permissions.is_some(), PERMISSIONS)
                | flag(self.times.is_some(), TIMES),
        );
        if let Some(size) = self.size {
            to.u64(size);
        }
        if let Some((user, group)) = self.owner {
            to.u32(user).u32(group);
        }
        if let Some(mode) = self.permissions {
            to.u32(mode);
        }
        if let Some((accessed, modified)) = self.times {
            to.u32(accessed).u32(modified);
        }
    }
}

impl From<&Metadata> for Attributes {
    fn from(data: &Metadata) -> Self {
        Self {
            size: Some(data.size()),
            owner: Some((data.uid(), data.gid())),
            permissions: Some(data.mode()),
            times: Some((seconds(data.atime()), seconds(data.mtime()))),
        }
    }
}

/// The protocol's times end in 2106; what lies outside is put at its ends.
fn seconds(time: i64) -> u32 {
    u32::try_from(time.max(0)).unwrap_or(u32::MAX)
}

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// The line that `sftp` prints for `ls -l`: owners as numbers, times in UTC.
pub fn long_name(name: &[u8], data: &Metadata) -> Vec<u8> {
    let (year, month, day) = civil(data.mtime().div_euclid(86_400));
    let minute = data.mtime().rem_euclid(86_400) / 60;
    let mut line = format!(
        "{} {:>4} {:<8} {:<8} {:>12} {} {day:>2} {year} {:02}:{:02} ",
        mode_letters(data.mode()),
        data.nlink(),
        data.uid(),
        data.gid(),
        data.size(),
        usize::try_from(month - 1)
            .ok()
            .and_then(|month| MONTHS.get(month))
            .unwrap_or(&"???"),
        minute / 60,
        minute % 60,
    )
    .into_bytes();
    line.extend(name);
    line
}

fn mode_letters(mode: u32) -> String {
    let kind = match mode & 0o170_000 {
        0o040_000 => 'd',
        0o120_000 => 'l',
        0o020_000 => 'c',
        0o060_000 => 'b',
        0o010_000 => 'p',
        0o140_000 => 's',
        _ => '-',
    };
    let mut letters = String::from(kind);
    for (shift, special, lower, upper) in [
        (6, 0o4000, 's', 'S'),
        (3, 0o2000, 's', 'S'),
        (0, 0o1000, 't', 'T'),
    ] {
        let bits = mode >> shift;
        letters.push(if bits & 4 != 0 { 'r' } else { '-' });
        letters.push(if bits & 2 != 0 { 'w' } else { '-' });
        letters.push(match (bits & 1 != 0, mode & special != 0) {
            (true, true) => lower,
            (false, true) => upper,
            (true, false) => 'x',
            (false, false) => '-',
        });
    }
    letters
}

/// Year, month (1 to 12) and day of a day since the epoch, in the Gregorian
/// calendar: Howard Hinnant's `civil_from_days`.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days.saturating_add(719_468);
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let whole = Attributes {
            size: Some(1 << 40),
            owner: Some((1, 2)),
            permissions: Some(0o644),
            times: Some((3, 4)),
        };
        for attributes in [
            whole,
            Attributes::default(),
            Attributes {
                owner: None,
                times: None,
                ..whole
            },
        ] {
            let mut packet = Builder::new(0);
            attributes.write(&mut packet);
            let bytes = packet.finish();
            assert_eq!(
                Attributes::read(&mut Fields::new(&bytes[5..])),
                Ok(attributes)
            );
        }
    }

    #[test]
    fn extended_pairs_end_with_the_packet() {
        let mut packet = Builder::new(0);
        packet.u32(EXTENDED).u32(u32::MAX);
        let bytes = packet.finish();
        assert_eq!(
            Attributes::read(&mut Fields::new(&bytes[5..])),
            Err(Malformed)
        );
    }

    #[test]
    fn dates_and_modes() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(-1), (1969, 12, 31));
        assert_eq!(civil(19_782), (2024, 2, 29));
        let _ = civil(i64::MAX / 86_400);
        assert_eq!(mode_letters(0o104_755), "-rwsr-xr-x");
        assert_eq!(mode_letters(0o041_776), "drwxrwxrwT");
        assert_eq!(seconds(-5), 0);
        assert_eq!(seconds(i64::MAX), u32::MAX);
    }
}

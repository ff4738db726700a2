// SPDX-License-Identifier: Apache-2.0
//! How each disk was found, for the host. It is kept in memory of the guest, since
//! the agent that mounts disks may give its place to an init of the root.

use std::fs;
use std::io;
use std::path::Path;

const FILE: &str = "/run/innkeeper/disks";

/// How a disk was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// With its file system.
    Good,
    /// Blank; it has a new file system.
    Made,
    /// Damaged; what could be saved is there.
    PartialDataLoss,
}

impl Condition {
    const ALL: [Self; 3] = [Self::Good, Self::Made, Self::PartialDataLoss];

    /// The word that stands for it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Good => "GOOD",
            Self::Made => "MADE",
            Self::PartialDataLoss => "PARTIAL_DATA_LOSS",
        }
    }
}

/// A disk that is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Its serial number.
    pub serial: String,
    /// How it was found.
    pub condition: Condition,
    /// What was done about it; one line, or none.
    pub detail: String,
    /// Where it is mounted.
    pub path: String,
}

/// Keeps the reports.
pub fn save(reports: &[Report]) -> io::Result<()> {
    if let Some(folder) = Path::new(FILE).parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(FILE, reports.iter().map(line).collect::<String>())
}

/// The reports that were kept.
pub fn load() -> Vec<Report> {
    parse(&fs::read_to_string(FILE).unwrap_or_default())
}

fn line(report: &Report) -> String {
    let word = report.condition.word();
    let detail = report.detail.replace(['\t', '\n'], " ");
    format!("{}\t{word}\t{}\t{detail}\n", report.serial, report.path)
}

fn parse(text: &str) -> Vec<Report> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.splitn(4, '\t');
            let serial = fields.next()?.to_owned();
            let word = fields.next()?;
            Some(Report {
                serial,
                condition: Condition::ALL.into_iter().find(|one| one.word() == word)?,
                path: fields.next()?.to_owned(),
                detail: fields.next()?.to_owned(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back() {
        let report = |condition, detail: &str| Report {
            serial: "0123".to_owned(),
            condition,
            detail: detail.to_owned(),
            path: "/mnt/a b".to_owned(),
        };
        let reports = [
            report(Condition::Made, ""),
            report(Condition::PartialDataLoss, "lost: a; b"),
        ];
        let text: String = reports.iter().map(line).collect();
        assert_eq!(parse(&text), reports);
        assert_eq!(parse("garbage\n\na\tGOOD\n"), []);
    }
}

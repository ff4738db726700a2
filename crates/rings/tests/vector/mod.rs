// SPDX-License-Identifier: Apache-2.0
//! The vectors of `tests/vectors/argo/` as values; `docs/reference/rings.md`
//! says what each key means.

pub mod replay;

use std::path::Path;

use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    pub vector: Vec<Vector>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vector {
    pub name: String,
    /// Rows of the list of features that this shows.
    pub rows: Vec<u8>,
    /// Why this differs from Xen.
    pub difference: Option<String>,
    #[serde(default)]
    pub setup: Setup,
    pub steps: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Setup {
    pub mac_permissive: bool,
    pub quota_percent: u8,
    pub availability: String,
    pub domains: u16,
    pub without_rings: Vec<u16>,
    pub max_ring_bytes: Option<u64>,
    pub bind: bool,
    pub refuse: Vec<Refusal>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            mac_permissive: true,
            quota_percent: 100,
            availability: "on".into(),
            domains: 3,
            without_rings: vec![],
            max_ring_bytes: None,
            bind: true,
            refuse: vec![],
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refusal {
    pub what: String,
    pub actor: u16,
    pub peer: Option<u16>,
    pub port: Option<u32>,
    #[serde(rename = "as")]
    pub appearance: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Want {
    Number(u32),
    Word(String),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Part {
    Text(String),
    Fill { fill: u32 },
    Unreadable { unreadable: u32 },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    pub from: String,
    #[serde(rename = "type", default)]
    pub message_type: u32,
    pub pieces: Vec<Part>,
    /// The first bytes of its slots, in hexadecimal digits.
    pub slots: Option<String>,
    /// Which of the lives that the vector gave its domain.
    pub life: Option<usize>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub ring: String,
    pub space: u32,
    pub flags: Vec<String>,
    #[serde(default)]
    pub max: u32,
    /// Xen's, where it is another.
    #[serde(rename = "max_xen")]
    pub _max_xen: Option<u32>,
    /// So many of the same.
    #[serde(default = "one")]
    pub count: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub op: String,
    pub by: Option<String>,
    pub want: Option<Want>,
    pub xen: Option<Want>,
    pub events: Option<Vec<String>>,
    pub events_xen: Option<Vec<String>>,
    #[serde(default = "one")]
    pub repeat: usize,
    pub ring: Option<String>,
    pub len: Option<u32>,
    pub pages: Option<u32>,
    #[serde(default)]
    pub flags: u32,
    #[serde(default)]
    pub pad: u16,
    pub from: Option<String>,
    pub to: Option<String>,
    #[serde(default)]
    pub from_pad: u16,
    #[serde(default)]
    pub to_pad: u16,
    #[serde(rename = "type", default)]
    pub message_type: u32,
    #[serde(default)]
    pub pieces: Vec<Part>,
    #[serde(default)]
    pub entries: Vec<Entry>,
    pub entries_of: Option<Entry>,
    pub message: Option<Expected>,
    pub bytes: Option<u32>,
    pub port: Option<u32>,
    pub id: Option<u16>,
    pub number: Option<u32>,
    #[serde(default)]
    pub arg3: u64,
    #[serde(default)]
    pub arg4: u64,
    pub refuse: Option<Vec<Refusal>>,
    pub mac_permissive: Option<bool>,
}

fn one() -> usize {
    1
}

/// The bytes of `{ fill = len }`: 0 to 250, again and again.
pub fn fill(len: u32) -> Vec<u8> {
    (0..=250).cycle().take(len as usize).collect()
}

/// All vectors, with the name of their file.
pub fn all() -> Vec<(String, Vector)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/argo");
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        let file: File = toml::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
        found.extend(file.vector.into_iter().map(|vector| (name.clone(), vector)));
    }
    found
}

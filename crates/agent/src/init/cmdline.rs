// SPDX-License-Identifier: Apache-2.0
//! The kernel command line's `inn.` parameters.

use crate::disks::Disk;
use crate::shares::{Place, Shares, Transport};

/// Longest host name the kernel takes.
const MAX_HOSTNAME: usize = 64;

/// What the command line configures.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Cmdline {
    /// `inn.hostname=`
    pub hostname: Option<String>,
    /// `inn.modules=`, in order.
    pub modules: Vec<String>,
    /// `inn.console=shell`
    pub console_shell: bool,
    /// `inn.units=off`
    pub units_off: bool,
    /// `inn.root=` and what belongs to it.
    pub root: Option<Root>,
    /// `inn.shares=` and the `inn.share=` with it.
    pub shares: Option<Shares>,
    /// `inn.disk=`, each of them.
    pub disks: Vec<Disk>,
}

/// A root file system other than the initramfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// `inn.root=`
    pub source: Source,
    /// `inn.rootfstype=`, of a disk or device.
    pub fstype: String,
    /// `inn.overlay=`
    pub overlay: Overlay,
    /// `rw`: without a layer, the root itself is written to.
    pub writable: bool,
    /// `inn.rootflags=`: options of the file system, where it takes them.
    pub flags: Option<String>,
    /// `inn.foreign=on`: a user of the host serves it, who owns few of its files.
    pub foreign: bool,
    /// `inn.tools=`
    pub tools: Option<Tools>,
    /// `inn.init=`: PID 1 on the root; without it, the agent.
    pub init: Option<String>,
}

/// Where a root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `disk:SERIAL`
    Disk(String),
    /// `device:/dev/...`
    Device(String),
    /// `virtiofs:TAG`
    Virtiofs(String),
    /// `9p:TAG`
    Ninep(String),
    /// `share:NAME`: a folder of what `inn.shares=` brings.
    Share(String),
}

/// A second file system, read-only: `inn.tools="SERIAL:/guest/path:FSTYPE"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tools {
    /// Of the disk.
    pub serial: String,
    /// Where it is mounted; absolute.
    pub place: String,
    /// The file system's type.
    pub fstype: String,
}

/// What lies over a read-only root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Overlay {
    /// `none`
    None,
    /// `temp`: memory.
    Temp,
    /// `keep:SERIAL`: a disk.
    Keep(String),
}

/// Reads /proc/cmdline.
pub fn read() -> Cmdline {
    parse(&std::fs::read_to_string("/proc/cmdline").unwrap_or_default())
}

fn parse(text: &str) -> Cmdline {
    let mut cmdline = Cmdline::default();
    let mut root = RootWords::default();
    let mut shares = None;
    let mut places = Vec::new();
    for word in words(text) {
        if let Some(name) = word.strip_prefix("inn.hostname=") {
            cmdline.hostname =
                Some(name.to_owned()).filter(|name| !name.is_empty() && name.len() <= MAX_HOSTNAME);
        } else if let Some(names) = word.strip_prefix("inn.modules=") {
            let names = names.split(',').filter(|name| !name.is_empty());
            cmdline.modules = names.map(str::to_owned).collect();
        } else if let Some(what) = word.strip_prefix("inn.console=") {
            cmdline.console_shell = what == "shell";
        } else if let Some(what) = word.strip_prefix("inn.units=") {
            cmdline.units_off = what == "off";
        } else if let Some(value) = word.strip_prefix("inn.shares=") {
            shares = Transport::parse(value);
        } else if let Some(value) = word.strip_prefix("inn.share=") {
            let place = value.split_once(':');
            places.extend(place.and_then(|(key, path)| Place::new(key, path)));
        } else if let Some(disk) = word.strip_prefix("inn.disk=") {
            cmdline.disks.extend(Disk::parse(disk));
        } else if word == "--" {
            // What follows is init's argv, by the kernel's own rule.
            break;
        } else {
            root.take(&word);
        }
    }
    cmdline.root = root.finish();
    cmdline.shares = shares.map(|transport| Shares { transport, places });
    cmdline
}

#[derive(Default)]
struct RootWords {
    source: Option<Source>,
    fstype: String,
    overlay: Option<Overlay>,
    writable: bool,
    flags: Option<String>,
    foreign: bool,
    tools: Option<Tools>,
    init: Option<String>,
}

impl RootWords {
    fn take(&mut self, word: &str) {
        if let Some(value) = word.strip_prefix("inn.root=") {
            self.source = parse_source(value);
        } else if let Some(value) = word.strip_prefix("inn.rootfstype=") {
            value.clone_into(&mut self.fstype);
        } else if let Some(value) = word.strip_prefix("inn.overlay=") {
            self.overlay = match value.split_once(':') {
                Some(("keep", serial)) => Some(Overlay::Keep(serial.to_owned())),
                _ if value == "temp" => Some(Overlay::Temp),
                _ => Some(Overlay::None),
            };
        } else if let Some(value) = word.strip_prefix("inn.rootflags=") {
            self.flags = Some(value.to_owned()).filter(|flags| !flags.is_empty());
        } else if let Some(value) = word.strip_prefix("inn.foreign=") {
            self.foreign = value == "on";
        } else if let Some(value) = word.strip_prefix("inn.tools=") {
            self.tools = parse_tools(value);
        } else if let Some(value) = word.strip_prefix("inn.init=") {
            self.init = Some(value.to_owned()).filter(|path| path.starts_with('/'));
        } else if word == "rw" || word == "ro" {
            self.writable = word == "rw";
        }
    }

    fn finish(self) -> Option<Root> {
        Some(Root {
            source: self.source?,
            fstype: self.fstype,
            overlay: self.overlay.unwrap_or(Overlay::None),
            writable: self.writable,
            flags: self.flags,
            foreign: self.foreign,
            tools: self.tools,
            init: self.init,
        })
    }
}

fn parse_source(value: &str) -> Option<Source> {
    let (kind, what) = value.split_once(':')?;
    let what = what.to_owned();
    match kind {
        _ if what.is_empty() => None,
        "disk" => Some(Source::Disk(what)),
        "device" => Some(Source::Device(what)),
        "virtiofs" => Some(Source::Virtiofs(what)),
        "9p" => Some(Source::Ninep(what)),
        "share" if what.bytes().all(|byte| byte.is_ascii_alphanumeric()) => {
            Some(Source::Share(what))
        }
        _ => None,
    }
}

fn parse_tools(value: &str) -> Option<Tools> {
    let (serial, rest) = value.split_once(':')?;
    let (place, fstype) = rest.rsplit_once(':')?;
    (!serial.is_empty() && place.starts_with('/') && !fstype.is_empty()).then(|| Tools {
        serial: serial.to_owned(),
        place: place.to_owned(),
        fstype: fstype.to_owned(),
    })
}

/// Words separated by spaces; double quotes keep spaces, as in the kernel.
fn words(text: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in text.chars() {
        match character {
            '"' => quoted = !quoted,
            space if space.is_ascii_whitespace() && !quoted => words.push(String::new()),
            other => words.iter_mut().last().map_or((), |word| word.push(other)),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        let cmdline = parse(
            "quiet x=\"a inn.hostname=no\" inn.hostname=t inn.modules=virtio_mmio,,vsock \
             console=ttyS0 -- inn.hostname=argv\n",
        );
        assert_eq!(cmdline.hostname.as_deref(), Some("t"));
        assert_eq!(cmdline.modules, ["virtio_mmio", "vsock"]);
    }

    #[test]
    fn a_shell_on_the_console_is_asked_for_by_its_name() {
        assert!(parse("quiet inn.console=shell").console_shell);
        assert!(parse("inn.units=off").units_off);
        assert!(!parse("inn.console=nothing -- inn.console=shell").console_shell);
    }

    #[test]
    fn disks_with_blanks_in_their_paths() {
        let disks = parse("inn.disk=\"1:/a b:ext4\" inn.disk=2:/c:btrfs inn.disk=3:d:ext4").disks;
        let paths: Vec<_> = disks.iter().map(|disk| disk.path.as_str()).collect();
        assert_eq!(paths, ["/a b", "/c"]);
    }

    #[test]
    fn nothing_and_nonsense() {
        assert_eq!(parse(""), Cmdline::default());
        assert_eq!(
            parse("inn.hostname= inn.modules= \"").modules,
            Vec::<String>::new()
        );
        assert_eq!(
            parse(&format!("inn.hostname={}", "x".repeat(65))).hostname,
            None
        );
    }

    #[test]
    fn roots() {
        let root = parse("inn.root=disk:inn-root inn.rootfstype=erofs inn.overlay=temp ro").root;
        let expected = Root {
            source: Source::Disk("inn-root".to_owned()),
            fstype: "erofs".to_owned(),
            overlay: Overlay::Temp,
            writable: false,
            flags: None,
            foreign: false,
            tools: None,
            init: None,
        };
        assert_eq!(root, Some(expected));
        let root = parse("inn.root=9p:host inn.overlay=keep:layer inn.init=/sbin/init rw")
            .root
            .unwrap();
        assert_eq!(root.source, Source::Ninep("host".to_owned()));
        assert_eq!(root.overlay, Overlay::Keep("layer".to_owned()));
        assert_eq!(root.init.as_deref(), Some("/sbin/init"));
        assert!(root.writable);
        let root = parse(
            "inn.root=device:/dev/pmem0 inn.rootflags=dax inn.tools=\"inn-tools:/opt/a b:ext4\"",
        )
        .root
        .unwrap();
        assert_eq!(root.flags.as_deref(), Some("dax"));
        let tools = root.tools.unwrap();
        assert_eq!(
            (
                tools.serial.as_str(),
                tools.place.as_str(),
                tools.fstype.as_str()
            ),
            ("inn-tools", "/opt/a b", "ext4")
        );
        let root = parse("inn.root=share:root inn.foreign=on").root.unwrap();
        assert!(root.foreign);
        assert_eq!(root.source, Source::Share("root".to_owned()));
        for damaged in ["inn-tools:opt:ext4", ":/opt:ext4", "a:/opt:", "a:/opt", ""] {
            assert_eq!(parse_tools(damaged), None, "{damaged}");
        }
        for nothing in [
            "inn.root=",
            "inn.root=disk:",
            "inn.root=nfs:x",
            "inn.root=share:../x",
            "inn.init=/sbin/init",
        ] {
            assert_eq!(parse(nothing).root, None, "{nothing}");
        }
    }

    #[test]
    fn shares() {
        let cmdline = parse(
            "inn.shares=virtiofs:tag inn.share=\"0a:/a b:c\" inn.share=x:/no inn.share=1:no \
             inn.share=1b:/d",
        );
        let places = [("0a", "/a b:c"), ("1b", "/d")]
            .map(|(key, path)| Place::new(key, path).unwrap())
            .to_vec();
        let transport = Transport::Virtiofs("tag".to_owned());
        assert_eq!(cmdline.shares, Some(Shares { transport, places }));
        let transport = |text: &str| parse(text).shares.map(|shares| shares.transport);
        let ninep = |port, cache: &str| Some(Transport::Ninep(port, cache.to_owned()));
        assert_eq!(transport("inn.shares=9p:16384,mmap"), ninep(16384, "mmap"));
        assert_eq!(transport("inn.shares=9p:7"), ninep(7, "none"));
        for nothing in [
            "inn.share=0a:/a",
            "inn.shares=virtiofs:",
            "inn.shares=x",
            "inn.shares=9p:x",
            "inn.shares=9p:1,a=b",
        ] {
            assert_eq!(parse(nothing).shares, None, "{nothing}");
        }
    }

    #[test]
    fn the_last_one_wins() {
        assert_eq!(
            parse("inn.hostname=a inn.hostname=b").hostname.as_deref(),
            Some("b")
        );
    }
}

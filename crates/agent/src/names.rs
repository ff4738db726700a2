// SPDX-License-Identifier: Apache-2.0
//! What other guests and the host are called: a block in /etc/hosts that is ours.
//!
//! All other lines are the guest's and stay as they are. The file is replaced by
//! a rename, through a link too, so that readers see the old one or the new one.

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use inn_wire::announce::{Name, Names};

use crate::console;
use crate::failures::Failures;
use crate::guest::hosts::cid_of;

const HOSTS: &str = "/etc/hosts";

/// The first and the last line of our block.
const BEGIN: &str = "# inn: other guests and the host; these lines are rewritten";
const END: &str = "# inn: end";

/// What every name ends with.
const DOMAIN: &str = ".inn";

const MAX_NAMES: usize = 512;
const MAX_ADDRESSES: usize = 4;

/// Bytes of a name: a label of a machine and the domain.
const MAX_NAME: usize = 64;

/// A larger /etc/hosts is left alone.
const MAX_FILE: u64 = 1 << 20;

/// As many links as the kernel follows for a path.
const MAX_LINKS: usize = 40;

/// Lays the names in /etc/hosts. Where that cannot be, says so once.
pub fn follow(names: &Names, failures: &Failures) {
    let Some(block) = render(names) else {
        return console::say(format_args!("names: the host sent what are none"));
    };
    if let Err(error) = place(Path::new(HOSTS), &block) {
        // The host's own name alone is no reason to trouble anybody.
        if names.names.len() > 1 {
            failures.report("names of guests", format_args!("{HOSTS}: {error}"));
        } else {
            console::say(format_args!("names: {HOSTS}: {error}"));
        }
    }
}

/// Lays the host's name before another init starts: the agent comes late then,
/// and with it the rest. Names of an earlier boot stay until they are told anew.
pub fn begin() {
    let host = Name {
        name: "host.inn".to_owned(),
        addresses: vec!["240.0.0.2".to_owned(), "fd69:6e6e:6b70::2".to_owned()],
    };
    let known = fs::read(HOSTS).is_ok_and(|text| has_block(&text));
    if let (false, Some(block)) = (known, render(&Names { names: vec![host] })) {
        // A root that is read-only is told of when the host says the names.
        let _ = place(Path::new(HOSTS), &block);
    }
}

fn has_block(text: &[u8]) -> bool {
    text.split(|byte| *byte == b'\n')
        .any(|line| line.trim_ascii_end() == BEGIN.as_bytes())
}

/// The block's lines; `None` where the host sent what belongs in no such block.
fn render(names: &Names) -> Option<String> {
    if names.names.len() > MAX_NAMES {
        return None;
    }
    let mut text = format!("{BEGIN}\n");
    for name in &names.names {
        if !is_name(&name.name) || name.addresses.len() > MAX_ADDRESSES {
            return None;
        }
        for address in &name.addresses {
            // Also what keeps a newline, and with it other lines, out.
            let address: IpAddr = address.parse().ok()?;
            // No name of ours leads anywhere else.
            cid_of(address)?;
            let _ = writeln!(text, "{address} {}", name.name);
        }
    }
    text.push_str(END);
    text.push('\n');
    Some(text)
}

fn is_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    name.len() <= MAX_NAME
        && name
            .strip_suffix(DOMAIN)
            .is_some_and(|label| !label.is_empty() && label.bytes().all(allowed))
}

/// Puts the block into the file, in place of an earlier one.
fn place(hosts: &Path, block: &str) -> io::Result<()> {
    let path = target(hosts)?;
    let (old, meta) = match File::open(&path) {
        Ok(file) => {
            let meta = file.metadata()?;
            let mut old = Vec::new();
            file.take(MAX_FILE + 1).read_to_end(&mut old)?;
            (old, Some(meta))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Vec::new(), None),
        Err(error) => return Err(error),
    };
    if old.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is larger than a MiB"));
    }
    let new = merge(&old, block);
    if new == old {
        return Ok(());
    }
    let made = path.with_extension("inn-new");
    let written = write_new(&made, &new, meta.as_ref()).and_then(|()| fs::rename(&made, &path));
    if written.is_err() {
        let _ = fs::remove_file(&made);
    }
    written
}

/// The file itself, which may not be there yet, behind links.
fn target(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs::read_link(&path) {
            Ok(next) => {
                path = path.parent().unwrap_or(Path::new("/")).join(next);
            }
            // No link, or nothing there.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ELOOP))
}

fn write_new(path: &Path, text: &[u8], like: Option<&fs::Metadata>) -> io::Result<()> {
    // What an agent left that was killed.
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mode = like.map_or(0o644, fs::Metadata::mode) & 0o7777;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)?;
    if let Some(like) = like {
        fchown(&file, Some(like.uid()), Some(like.gid()))?;
        file.set_permissions(like.permissions())?;
    }
    file.write_all(text)?;
    file.sync_data()
}

/// The text with the block at its end, or where an earlier one stood.
fn merge(old: &[u8], block: &str) -> Vec<u8> {
    let mut new = Vec::with_capacity(old.len() + block.len());
    let (mut ours, mut placed) = (false, false);
    for line in old.split_inclusive(|byte| *byte == b'\n') {
        let text = line.trim_ascii_end();
        if text == BEGIN.as_bytes() {
            ours = true;
            if !placed {
                new.extend_from_slice(block.as_bytes());
                placed = true;
            }
        } else if ours && text == END.as_bytes() {
            ours = false;
        } else if !(ours && text.ends_with(DOMAIN.as_bytes())) {
            // Somebody cut our block, or wrote within: what is not ours stays.
            new.extend_from_slice(line);
        }
    }
    if !placed {
        if new.last().is_some_and(|byte| *byte != b'\n') {
            new.push(b'\n');
        }
        new.extend_from_slice(block.as_bytes());
    }
    new
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn names(list: &[(&str, &[&str])]) -> Names {
        let name = |(name, addresses): &(&str, &[&str])| Name {
            name: (*name).to_owned(),
            addresses: addresses.iter().map(|text| (*text).to_owned()).collect(),
        };
        Names {
            names: list.iter().map(name).collect(),
        }
    }

    fn block(lines: &str) -> String {
        format!("{BEGIN}\n{lines}{END}\n")
    }

    #[test]
    fn text() {
        let told = names(&[
            ("host.inn", &["240.0.0.2", "fd69:6e6e:6b70::2"]),
            ("a-1.inn", &["fd69:6e6e:6b70::ffff:1"]),
        ]);
        let lines =
            "240.0.0.2 host.inn\nfd69:6e6e:6b70::2 host.inn\nfd69:6e6e:6b70::ffff:1 a-1.inn\n";
        assert_eq!(render(&told).unwrap(), block(lines));
    }

    #[test]
    fn nothing_else_gets_in() {
        for (name, address) in [
            ("example.org", "240.0.0.3"),
            ("a.b.inn", "240.0.0.3"),
            (".inn", "240.0.0.3"),
            ("a\nb.inn", "240.0.0.3"),
            ("a b.inn", "240.0.0.3"),
            ("a.inn", "10.0.0.1"),
            ("a.inn", "fd00::1"),
            ("a.inn", "fd69:6e6e:6b70:0:0:1::"),
            ("a.inn", "240.0.0.3 www.example.org"),
            ("a.inn", ""),
        ] {
            assert!(
                render(&names(&[(name, &[address])])).is_none(),
                "{name} {address}"
            );
        }
        assert!(render(&names(&[("a.inn", &["240.0.0.3"; 5])])).is_none());
        assert!(render(&names(&vec![("a.inn", &["240.0.0.3"][..]); 513])).is_none());
    }

    #[test]
    fn foreign_lines_stay() {
        let (one, two) = (block("240.0.0.2 host.inn\n"), block("240.4.0.0 web.inn\n"));
        assert_eq!(merge(b"", &one), one.as_bytes());
        assert!(has_block(&merge(b"127.0.0.1 localhost\n", &one)));
        assert!(!has_block(format!("#{BEGIN}\n").as_bytes()));
        assert_eq!(
            merge(b"127.0.0.1 localhost", &one),
            format!("127.0.0.1 localhost\n{one}").as_bytes()
        );
        let between = format!("127.0.0.1 a\n{one} ::1 b\n");
        assert_eq!(
            merge(between.as_bytes(), &two),
            format!("127.0.0.1 a\n{two} ::1 b\n").as_bytes()
        );
        // A block without its end, and one that stands there twice.
        let cut = format!("{BEGIN}\n240.0.0.2 host.inn\n10.0.0.1 mine\n{one}");
        assert_eq!(
            merge(cut.as_bytes(), &two),
            format!("{two}10.0.0.1 mine\n").as_bytes()
        );
        // No text at all.
        assert!(merge(&[0xff, b'\n'], &one).starts_with(&[0xff, b'\n']));
    }

    #[test]
    fn links_modes_and_missing_files() {
        let dir = std::env::temp_dir().join(format!("inn-hosts-{}", std::process::id()));
        fs::create_dir_all(dir.join("real")).unwrap();
        let (link, real) = (dir.join("hosts"), dir.join("real/hosts"));
        symlink("real/hosts", &link).unwrap();
        let one = block("240.0.0.2 host.inn\n");
        // It leads to nothing yet.
        place(&link, &one).unwrap();
        assert_eq!(fs::read_to_string(&real).unwrap(), one);
        fs::set_permissions(&real, fs::Permissions::from_mode(0o600)).unwrap();
        let before = fs::metadata(&real).unwrap();
        place(&link, &one).unwrap();
        assert_eq!(
            fs::metadata(&real).unwrap().ino(),
            before.ino(),
            "nothing to do"
        );
        place(&link, &block("")).unwrap();
        let after = fs::metadata(&real).unwrap();
        assert!(link.is_symlink());
        assert_eq!(after.mode() & 0o7777, 0o600);
        assert_ne!(after.ino(), before.ino());
        assert_eq!(fs::read_dir(dir.join("real")).unwrap().count(), 1);
        symlink("loop", dir.join("loop")).unwrap();
        assert!(place(&dir.join("loop"), &one).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}

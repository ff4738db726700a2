// SPDX-License-Identifier: Apache-2.0
//! What the host changed in shared folders: no file system tells the guest of
//! it, so the agent sets times of these files to what they are. That is a
//! change, and programs that watch them wake.
//!
//! What the guest wrote itself comes back from the host, too. Its own programs
//! know already, and one that answers each change with another must not be kept
//! going: files that fanotify(7) saw written here are passed over.

use std::collections::{BTreeSet, HashMap};
use std::os::fd::AsFd;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use inn_wire::announce::{Change, Changes, WatchedShares};
use nix::fcntl::AT_FDCWD;
use nix::sys::fanotify::{EventFFlags, Fanotify, InitFlags, MarkFlags, MaskFlags};
use nix::sys::stat::{FileStat, SFlag, UtimensatFlags, fstat, lstat, utimensat};
use nix::sys::time::TimeSpec;

use crate::console;

/// Where the shares are, each under its key.
const TREE: &str = "/run/innkeeper/shares";

/// Messages that wait for a share that answers slowly; later ones are lost.
const WAITING: usize = 16;

/// What was written here is looked at this often: an event holds its file, and
/// with it the mount.
const LOOK: Duration = Duration::from_millis(250);

/// For so long a change of a file that was written here is taken for that.
const ECHO: Duration = Duration::from_secs(3);

/// Files written here that are remembered.
const MAX_WRITTEN: usize = 16384;

/// What the host says.
enum Notice {
    Watched(WatchedShares),
    Changes(Changes),
}

/// The way to the thread that does it; there is none until the host says something.
#[derive(Default)]
pub struct Notices(OnceLock<SyncSender<Notice>>);

impl Notices {
    /// The host watches these shares.
    pub fn watched(&self, watched: WatchedShares) {
        self.push(Notice::Watched(watched));
    }

    /// The host changed these files.
    pub fn changes(&self, changes: Changes) {
        self.push(Notice::Changes(changes));
    }

    fn push(&self, notice: Notice) {
        let sender = self.0.get_or_init(|| {
            let (sender, receiver) = sync_channel(WAITING);
            let thread = std::thread::Builder::new().name("notify".to_owned());
            if let Err(error) = thread.spawn(move || run(&receiver)) {
                console::say(format_args!("notify: {error}"));
            }
            sender
        });
        // A watcher that misses one of many changes sees the others.
        let _ = sender.try_send(notice);
    }
}

fn run(receiver: &Receiver<Notice>) {
    let mut written = Written::new();
    loop {
        match receiver.recv_timeout(LOOK) {
            Ok(Notice::Watched(watched)) => written.watch(&watched.keys),
            Ok(Notice::Changes(changes)) => {
                written.look();
                wake(&changes.changes, &written);
            }
            Err(RecvTimeoutError::Timeout) => written.look(),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn wake(changes: &[Change], written: &Written) {
    // Of many files that went, the folder is touched once.
    let mut folders = BTreeSet::new();
    for change in changes {
        let Some(path) = place(change) else {
            continue;
        };
        match lstat(&path) {
            Ok(stat) if !change.gone && !written.has(&stat) => touch(&path, &stat),
            Ok(_) => {}
            Err(_) => folders.extend(path.parent().map(Path::to_owned)),
        }
    }
    for folder in folders
        .iter()
        .filter(|folder| folder.as_path() != Path::new(TREE))
    {
        if let Ok(stat) = lstat(folder) {
            touch(folder, &stat);
        }
    }
}

/// Where a change is here, if its names lead nowhere else.
fn place(change: &Change) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStrExt;
    let below = Path::new(std::ffi::OsStr::from_bytes(&change.path));
    let is_key = !change.key.is_empty() && change.key.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_plain = below
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    (is_key && is_plain).then(|| Path::new(TREE).join(&change.key).join(below))
}

/// Sets times to what they are. The kernel tells of a new modification time
/// alone as of a change of content, and of both times as of one of attributes,
/// which fits a folder better. What the host writes at this very moment it tells
/// of again.
fn touch(path: &Path, stat: &FileStat) {
    let modified = TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec);
    let accessed = if is_folder(stat) {
        TimeSpec::new(stat.st_atime, stat.st_atime_nsec)
    } else {
        TimeSpec::UTIME_OMIT
    };
    let flags = UtimensatFlags::NoFollowSymlink;
    // It may be gone again, or belong to somebody else: then nobody wakes.
    let _ = utimensat(AT_FDCWD, path, &accessed, &modified, flags);
}

fn is_folder(stat: &FileStat) -> bool {
    stat.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits()
}

/// What programs of this guest wrote lately.
struct Written {
    events: Option<Fanotify>,
    files: HashMap<(u64, u64), Instant>,
}

impl Written {
    fn new() -> Self {
        let flags = InitFlags::FAN_CLASS_NOTIF | InitFlags::FAN_CLOEXEC | InitFlags::FAN_NONBLOCK;
        let files = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC;
        let events = Fanotify::init(flags, files);
        if let Err(errno) = &events {
            console::say(format_args!("notify: fanotify: {}", errno.desc()));
        }
        Self {
            events: events.ok(),
            files: HashMap::new(),
        }
    }

    /// Looks at the file systems of these shares.
    fn watch(&self, keys: &[String]) {
        let Some(events) = &self.events else {
            return;
        };
        let mask = MaskFlags::FAN_MODIFY | MaskFlags::FAN_CLOSE_WRITE;
        let flags = MarkFlags::FAN_MARK_ADD | MarkFlags::FAN_MARK_FILESYSTEM;
        for key in keys {
            // Again, too: what is mounted anew is another file system.
            let path = Path::new(TREE).join(key);
            if let Err(errno) = events.mark(flags, mask, AT_FDCWD, Some(&path)) {
                console::say(format_args!("notify: fanotify: {}", errno.desc()));
            }
        }
    }

    /// Takes what was written since the last look.
    fn look(&mut self) {
        let now = Instant::now();
        self.files.retain(|_, at| now.duration_since(*at) < ECHO);
        let Some(events) = &self.events else {
            return;
        };
        // An error is also the end of what there is (EAGAIN).
        while let Ok(batch) = events.read_events() {
            if batch.is_empty() {
                return;
            }
            for event in &batch {
                if let Some(stat) = event.fd().and_then(|fd| fstat(fd.as_fd()).ok()) {
                    if self.files.len() < MAX_WRITTEN {
                        self.files.insert((stat.st_dev, stat.st_ino), now);
                    }
                }
            }
        }
    }

    fn has(&self, stat: &FileStat) -> bool {
        self.files.contains_key(&(stat.st_dev, stat.st_ino))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    fn change(key: &str, path: &[u8]) -> Change {
        Change {
            key: key.to_owned(),
            path: path.to_vec().into(),
            gone: false,
        }
    }

    #[test]
    fn changes_stay_below_their_share() {
        let inside = place(&change("0a", b"b/c")).unwrap();
        assert_eq!(inside, Path::new("/run/innkeeper/shares/0a/b/c"));
        assert_eq!(
            place(&change("0a", b"")).unwrap(),
            Path::new("/run/innkeeper/shares/0a")
        );
        for (key, path) in [
            ("..", &b"x"[..]),
            ("", b"x"),
            ("0a", b"../x"),
            ("0a", b"/etc/passwd"),
            ("0a", b"x/../../y"),
        ] {
            assert_eq!(place(&change(key, path)), None, "{key} {path:?}");
        }
    }

    #[test]
    fn a_touch_changes_nothing_but_says_so() {
        let path = std::env::temp_dir().join(format!("inn-touch-{}", std::process::id()));
        std::fs::write(&path, "x").unwrap();
        let before = std::fs::metadata(&path).unwrap();
        touch(&path, &lstat(&path).unwrap());
        let after = std::fs::metadata(&path).unwrap();
        assert_eq!(before.mtime_nsec(), after.mtime_nsec());
        assert_eq!(before.atime_nsec(), after.atime_nsec());
        std::fs::remove_file(&path).unwrap();
    }
}

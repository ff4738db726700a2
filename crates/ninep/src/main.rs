// SPDX-License-Identifier: Apache-2.0
//! `inn-9p FD ROOT [root]`: serves ROOT to whoever connects to the listening
//! socket FD, after giving up all that this does not need.
//!
//! It lives in namespaces that its starter made. With `root` it keeps the rights
//! to files that root has; without, it has those of its user.

mod confine;

use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use inn_ninep::connection::serve;
use inn_ninep::files::Tree;

/// Connections at the same time: one a mount, and some that come back.
const MAX_CONNECTIONS: usize = 8;

const STACK: usize = 256 << 10;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("inn-9p: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let (fd, root, is_root) = match arguments {
        [fd, root] => (fd, root, false),
        [fd, root, word] if word == "root" => (fd, root, true),
        _ => return Err("usage: inn-9p FD ROOT [root]".into()),
    };
    // SAFETY: the starter left this descriptor to us, and nothing here has it yet.
    let listener = UnixListener::from(unsafe { OwnedFd::from_raw_fd(fd.parse()?) });
    let tree = Tree::new(Path::new(root), is_root)?;
    confine::open_files()?;
    confine::lock_up(Path::new(root))?;
    let tree = Arc::new(tree.rooted()?);
    confine::drop_rights(is_root)?;
    confine::filter_calls()?;
    let running = Arc::new(AtomicUsize::new(0));
    loop {
        let (stream, _) = listener.accept()?;
        // One too many ends at once; its client sees a closed connection.
        if running.fetch_add(1, Ordering::AcqRel) >= MAX_CONNECTIONS {
            running.fetch_sub(1, Ordering::AcqRel);
            continue;
        }
        let (tree, running) = (Arc::clone(&tree), Arc::clone(&running));
        std::thread::Builder::new()
            .stack_size(STACK)
            .spawn(move || {
                let _ = serve::<UnixStream>(&stream, tree);
                running.fetch_sub(1, Ordering::AcqRel);
            })?;
    }
}

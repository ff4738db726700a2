// SPDX-License-Identifier: Apache-2.0
//! The programs that make and repair file systems. They come from the host with
//! their own loader and libraries, since a guest may have none, or others.

use std::io::{self, Read};
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the initramfs has them.
const FOLDER: &str = "/usr/lib/innkeeper";

/// So much of the end of what a program said is kept.
const SAID: usize = 300;

/// How a program ended.
pub struct Ended {
    /// Its exit code; negative for a signal.
    pub code: i32,
    /// The end of what it said, on one line.
    pub said: String,
}

/// Runs a program to its end. It may take long; the host has a limit for the start.
pub fn run(program: &str, arguments: &[&str], device: &Path) -> io::Result<Ended> {
    let path = format!("{FOLDER}/{program}");
    if !Path::new(&path).exists() {
        let text = format!("{program} is not in this guest");
        return Err(io::Error::new(io::ErrorKind::NotFound, text));
    }
    let (reader, writer) = nix::unistd::pipe()?;
    let mut command = Command::new(format!("{FOLDER}/ld.so"));
    command
        .args(["--library-path", FOLDER, &path])
        .args(arguments)
        .arg(device)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let mut child = command.spawn()?;
    // Else our own ends of the pipe would keep it open.
    drop(command);
    let said = last_words(&mut std::fs::File::from(reader))?;
    let status = child.wait()?;
    let code = status.code().unwrap_or_else(|| {
        use std::os::unix::process::ExitStatusExt;
        status.signal().map_or(-1, |number| -number)
    });
    Ok(Ended { code, said })
}

/// Gives the memory of the programs back, where `/` is the initramfs and stays it.
pub fn drop_all() {
    let _ = std::fs::remove_dir_all(FOLDER);
}

/// The end of what comes, which may be any amount of anything.
fn last_words(source: &mut impl Read) -> io::Result<String> {
    let (mut kept, mut cut) = (Vec::new(), false);
    let mut chunk = [0; 4096];
    loop {
        let count = source.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        kept.extend_from_slice(chunk.get(..count).unwrap_or_default());
        let excess = kept.len().saturating_sub(SAID);
        cut |= excess > 0;
        kept.drain(..excess);
    }
    if cut {
        // What is left of a line says little.
        let end = kept.iter().position(|byte| *byte == b'\n');
        kept.drain(..end.map_or(0, |end| end + 1));
    }
    let text = String::from_utf8_lossy(&kept);
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_flood_is_kept() {
        let flood = [b"x".repeat(100_000), b"\nthe end\n\n".to_vec()].concat();
        let said = last_words(&mut flood.as_slice()).unwrap();
        assert_eq!(said, "the end");
        assert_eq!(last_words(&mut b"a\n\n b\n".as_slice()).unwrap(), "a; b");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run("e2fsck", &[], Path::new("/dev/null")).map(|ended| ended.code);
        assert!(error.unwrap_err().to_string().contains("e2fsck is not"));
    }
}

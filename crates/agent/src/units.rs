// SPDX-License-Identifier: Apache-2.0
//! Units: programs that an image wants started, in the order of their files'
//! names, once the agent is PID 1 and serves. What maitred reads as textproto
//! is here `key = value` lines, which need no library to read.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::agent::Agent;
use crate::control::launch::launch_process;
use crate::control::proto::{LaunchProcessRequest, LaunchProcessResponse, ProcessStatus};

/// Where images put them.
const FOLDER: &str = "/etc/innkeeper/units";

const SUFFIX: &str = "unit";

/// Units of one image, and bytes of one of them: beyond is a mistake.
const MAX_UNITS: usize = 256;
const MAX_BYTES: u64 = 64 << 10;

/// Starts every unit. A `wait` holds the later ones up; a failure does not.
pub async fn start_all(agent: Arc<Agent>) {
    for path in list(Path::new(FOLDER)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let started = match read(&path) {
            Ok(request) => launch_process(&agent, request)
                .await
                .map_err(|status| status.message().to_owned())
                .and_then(|response| check(&response)),
            Err(problem) => Err(problem),
        };
        if let Err(problem) = started {
            agent.failures.report("unit", format!("{name}: {problem}"));
        }
    }
}

/// The files, sorted by name. No folder has none.
fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<_> = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == SUFFIX))
        .take(MAX_UNITS)
        .collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Result<LaunchProcessRequest, String> {
    let load = || -> io::Result<String> {
        let mut text = String::new();
        File::open(path)?
            .take(MAX_BYTES)
            .read_to_string(&mut text)?;
        Ok(text)
    };
    parse(&load().map_err(|error| error.to_string())?)
}

/// Lines of `key = value`; `#` begins a comment line.
fn parse(text: &str) -> Result<LaunchProcessRequest, String> {
    let mut request = LaunchProcessRequest::default();
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let at = |problem: &str| format!("line {number}: {problem}");
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| at("no \"key = value\""))?;
        set(&mut request, key.trim(), value.trim()).map_err(|problem| at(&problem))?;
    }
    if request.argv.is_empty() {
        return Err("no \"arg = PROGRAM\" in it".to_owned());
    }
    Ok(request)
}

fn set(request: &mut LaunchProcessRequest, key: &str, value: &str) -> Result<(), String> {
    match key {
        "arg" => request.argv.push(value.to_owned()),
        "env" => {
            let (name, value) = value
                .split_once('=')
                .ok_or_else(|| format!("env \"{value}\" is no NAME=VALUE"))?;
            let variables: &mut HashMap<_, _> = &mut request.env;
            variables.insert(name.to_owned(), value.to_owned());
        }
        "respawn" => request.respawn = flag(value)?,
        "console" => request.use_console = flag(value)?,
        "wait" => request.wait_for_exit = flag(value)?,
        _ => return Err(format!("no key \"{key}\"")),
    }
    Ok(())
}

fn flag(value: &str) -> Result<bool, String> {
    match value {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("\"{value}\" is neither yes nor no")),
    }
}

/// What went wrong with a unit that was started, or waited for.
fn check(response: &LaunchProcessResponse) -> Result<(), String> {
    match (response.status(), response.code) {
        (ProcessStatus::Launched, _) | (ProcessStatus::Exited, 0) => Ok(()),
        (ProcessStatus::Exited, code) => Err(format!("ended with {code}")),
        (ProcessStatus::Signaled, number) => Err(format!("killed by signal {number}")),
        (_, errno) => Err(nix::errno::Errno::from_raw(errno).desc().to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit() {
        let unit = parse(
            "# a comment\narg = /bin/sh\narg = -c\n\narg=echo a = b\nenv = A=b=c\n\
             respawn = yes\nconsole=no\n",
        )
        .unwrap();
        assert_eq!(unit.argv, ["/bin/sh", "-c", "echo a = b"]);
        assert_eq!(unit.env.get("A").map(String::as_str), Some("b=c"));
        assert!(unit.respawn && !unit.use_console && !unit.wait_for_exit);
    }

    #[test]
    fn nonsense_is_named() {
        for (text, problem) in [
            ("", "no \"arg"),
            ("arg = x\nnonsense", "line 2"),
            ("args = x", "no key \"args\""),
            ("arg = x\nwait = true", "neither yes nor no"),
            ("env = x", "NAME=VALUE"),
        ] {
            assert!(parse(text).unwrap_err().contains(problem), "{text}");
        }
    }

    #[test]
    fn files_are_sorted_and_others_left_out() {
        let folder = std::env::temp_dir().join(format!("inn-units-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["20-b.unit", "10-a.unit", "30-c.unit~", "README"] {
            std::fs::write(folder.join(name), "").unwrap();
        }
        let names: Vec<_> = list(&folder)
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(names, ["10-a.unit", "20-b.unit"]);
        assert!(list(&folder).is_empty());
    }
}

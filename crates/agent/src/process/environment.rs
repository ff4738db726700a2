// SPDX-License-Identifier: Apache-2.0
//! The environment of a new process, and where its program may lie.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CString, NulError};

use super::spawn::c_strings;
use super::users::Account;

/// PATH of a process that was given none. The last folder has `inn-guest` where the
/// root is not ours to write to.
pub const DEFAULT_PATH: &str =
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/innkeeper/bin";

/// A name no environment can hold.
#[derive(Debug, thiserror::Error)]
#[error("\"{0}\" cannot name an environment variable")]
pub struct BadName(String);

/// Variables by name.
#[derive(Debug)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// What a login of this user has.
    pub fn login(account: &Account) -> Self {
        let variables = [
            ("PATH", DEFAULT_PATH),
            ("HOME", &account.home),
            ("USER", &account.name),
            ("LOGNAME", &account.name),
            ("SHELL", &account.shell),
            ("TERM", "linux"),
        ];
        Self(
            variables
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        )
    }

    /// Adds the variables of a request, which win over ours.
    pub fn extend(&mut self, request: HashMap<String, String>) -> Result<(), BadName> {
        for (name, value) in request {
            if name.is_empty() || name.contains(['=', '\0']) {
                return Err(BadName(name));
            }
            self.0.insert(name, value);
        }
        Ok(())
    }

    /// Paths where a command may lie, in the order of PATH. A command with a
    /// slash is its own path; an empty folder is the working directory.
    pub fn candidates(&self, command: &str) -> Vec<String> {
        if command.is_empty() {
            return Vec::new();
        }
        if command.contains('/') {
            return vec![command.to_owned()];
        }
        let path = self.0.get("PATH").map_or(DEFAULT_PATH, String::as_str);
        let join = |folder: &str| match folder {
            "" => format!("./{command}"),
            folder => format!("{folder}/{command}"),
        };
        path.split(':').map(join).collect()
    }

    /// `KEY=VALUE` each, for exec.
    pub fn into_strings(self) -> Result<Vec<CString>, NulError> {
        c_strings(
            self.0
                .into_iter()
                .map(|(name, value)| format!("{name}={value}")),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::users::Database;

    fn root() -> Environment {
        Environment::login(&Database::default().by_uid(0))
    }

    #[test]
    fn requests_win() {
        let mut env = root();
        env.extend(HashMap::from([
            ("TERM".into(), "xterm".into()),
            ("A".into(), "".into()),
        ]))
        .unwrap();
        let strings = env.into_strings().unwrap();
        assert!(strings.contains(&c"TERM=xterm".into()));
        assert!(strings.contains(&c"A=".into()));
        assert!(strings.contains(&c"HOME=/root".into()));
    }

    #[test]
    fn bad_names() {
        for name in ["", "A=B", "A\0"] {
            assert!(
                root()
                    .extend(HashMap::from([(name.into(), "x".into())]))
                    .is_err()
            );
        }
    }

    #[test]
    fn candidates_follow_path() {
        let mut env = root();
        env.extend(HashMap::from([("PATH".into(), "/a::/b".into())]))
            .unwrap();
        assert_eq!(env.candidates("x"), ["/a/x", "./x", "/b/x"]);
        assert_eq!(env.candidates("./x"), ["./x"]);
        assert!(env.candidates("").is_empty());
    }
}

// SPDX-License-Identifier: Apache-2.0
//! Users and groups from /etc/passwd and /etc/group, parsed here: a static
//! glibc has no name service modules to ask.

use std::path::Path;

/// Whom a process becomes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

/// A user as a session needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Login name; the number of a user without one.
    pub name: String,
    /// Ids.
    pub identity: Identity,
    /// Home folder.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// The name of nobody we know.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownUser {
    /// No such user.
    #[error("no user \"{0}\" in /etc/passwd")]
    User(String),
    /// No such group.
    #[error("no group \"{0}\" in /etc/group")]
    Group(String),
}

const DEFAULT_SHELL: &str = "/bin/sh";

/// The user and group database of a guest.
#[derive(Debug, Default)]
pub struct Database {
    users: Vec<User>,
    groups: Vec<Group>,
}

#[derive(Debug)]
struct User {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
    shell: String,
}

#[derive(Debug)]
struct Group {
    name: String,
    gid: u32,
    members: Vec<String>,
}

impl Database {
    /// Reads the files of `etc`. Missing files hold nobody; bytes that are no
    /// UTF-8 (comments, usually) do not hide the other lines.
    pub fn read(etc: &Path) -> Self {
        let text = |name| std::fs::read(etc.join(name)).unwrap_or_default();
        Self::parse(
            &String::from_utf8_lossy(&text("passwd")),
            &String::from_utf8_lossy(&text("group")),
        )
    }

    fn parse(passwd: &str, group: &str) -> Self {
        Self {
            users: passwd.lines().filter_map(parse_user).collect(),
            groups: group.lines().filter_map(parse_group).collect(),
        }
    }

    /// The user with this id, even if the files do not know it.
    pub fn by_uid(&self, uid: u32) -> Account {
        match self.users.iter().find(|user| user.uid == uid) {
            Some(user) => self.account(user, user.gid),
            None => Account {
                name: if uid == 0 {
                    "root".to_owned()
                } else {
                    uid.to_string()
                },
                identity: Identity {
                    uid,
                    gid: uid,
                    groups: vec![uid],
                },
                home: if uid == 0 { "/root" } else { "/" }.to_owned(),
                shell: DEFAULT_SHELL.to_owned(),
            },
        }
    }

    /// The user named by `USER` or `USER:GROUP`, each a name or a number.
    pub fn find(&self, wanted: &str) -> Result<Account, UnknownUser> {
        let (user, group) = match wanted.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (wanted, None),
        };
        let mut account = match self.users.iter().find(|known| known.name == user) {
            Some(known) => self.account(known, known.gid),
            None => match user.parse() {
                // The largest number means "no change" to the kernel.
                Ok(uid) if uid != u32::MAX => self.by_uid(uid),
                _ => return Err(UnknownUser::User(user.to_owned())),
            },
        };
        if let Some(group) = group {
            let gid = self.gid(group)?;
            account.identity.gid = gid;
            account.identity.groups = self.memberships(&account.name, gid);
        }
        Ok(account)
    }

    fn gid(&self, wanted: &str) -> Result<u32, UnknownUser> {
        let unknown = || UnknownUser::Group(wanted.to_owned());
        match self.groups.iter().find(|group| group.name == wanted) {
            Some(group) => Ok(group.gid),
            None => wanted
                .parse()
                .ok()
                .filter(|gid| *gid != u32::MAX)
                .ok_or_else(unknown),
        }
    }

    fn account(&self, user: &User, gid: u32) -> Account {
        let or = |text: &str, default: &str| {
            if text.is_empty() {
                default.to_owned()
            } else {
                text.to_owned()
            }
        };
        Account {
            name: user.name.clone(),
            identity: Identity {
                uid: user.uid,
                gid,
                groups: self.memberships(&user.name, gid),
            },
            home: or(&user.home, "/"),
            shell: or(&user.shell, DEFAULT_SHELL),
        }
    }

    /// What initgroups would set: the primary group and every membership.
    fn memberships(&self, name: &str, gid: u32) -> Vec<u32> {
        let is_member = |group: &&Group| group.members.iter().any(|member| member == name);
        let mut groups = vec![gid];
        groups.extend(self.groups.iter().filter(is_member).map(|group| group.gid));
        groups.sort_unstable();
        groups.dedup();
        groups
    }
}

fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let _password = fields.next()?;
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let _comment = fields.next();
    let home = fields.next().unwrap_or_default().to_owned();
    let shell = fields.next().unwrap_or_default().trim_end().to_owned();
    Some(User {
        name,
        uid,
        gid,
        home,
        shell,
    })
}

fn parse_group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let name = fields.next().filter(|name| !name.is_empty())?.to_owned();
    let _password = fields.next()?;
    let gid = fields.next()?.parse().ok()?;
    let members = fields.next().unwrap_or_default();
    let members = members
        .trim_end()
        .split(',')
        .filter(|name| !name.is_empty());
    Some(Group {
        name,
        gid,
        members: members.map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database() -> Database {
        Database::parse(
            "root:x:0:0:root:/root:/bin/bash\n\
             alice:x:1000:1000:Alice:/home/alice:/bin/zsh\n\
             bare:x:7:8::\n\
             broken:x:many:8::/:/bin/sh\n\
             nonsense\n\
             :x:9:9::/:/bin/sh\n",
            "root:x:0:\nwheel:x:10:root,alice\nvideo:x:44:alice\nalice:x:1000:\n",
        )
    }

    #[test]
    fn names_and_numbers() {
        let db = database();
        let alice = db.find("alice").unwrap();
        assert_eq!(alice.identity.groups, [10, 44, 1000]);
        assert_eq!(
            (alice.home.as_str(), alice.shell.as_str()),
            ("/home/alice", "/bin/zsh")
        );
        assert_eq!(db.find("1000").unwrap(), alice);
        let other = db.find("alice:video").unwrap();
        assert_eq!(
            (other.identity.gid, other.identity.groups),
            (44, vec![10, 44])
        );
        let numeric = db.find("1234:99").unwrap();
        assert_eq!(
            numeric.identity,
            Identity {
                uid: 1234,
                gid: 99,
                groups: vec![99]
            }
        );
        assert_eq!(
            (numeric.name.as_str(), numeric.home.as_str()),
            ("1234", "/")
        );
        assert_eq!(db.find("bare").unwrap().shell, "/bin/sh");
    }

    #[test]
    fn unknown_ones() {
        let db = database();
        for name in ["bob", "broken", "", ":", "-1", "4294967295", "1 "] {
            assert!(db.find(name).is_err(), "{name}");
        }
        assert_eq!(
            db.find("alice:nope"),
            Err(UnknownUser::Group("nope".into()))
        );
        assert!(db.find("alice:").is_err());
        assert!(db.find("alice:4294967295").is_err());
    }

    #[test]
    fn no_files_at_all() {
        let db = Database::read(Path::new("/no/such"));
        assert_eq!(db.by_uid(0).home, "/root");
        assert_eq!(db.by_uid(5).name, "5");
    }
}

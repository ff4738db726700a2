// SPDX-License-Identifier: Apache-2.0
//! Sessions of the real binary: environment, folder, user, program, target.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt;

use inn_wire::vsh::{FailedStep, SetupConnectionRequest};
use support::{Agent, pipes};

fn is_root() -> bool {
    std::fs::read_to_string("/proc/self/status")
        .unwrap()
        .contains("\nUid:\t0\t0\t")
}

#[test]
fn environment() {
    let agent = Agent::start();
    let env = HashMap::from([
        ("A B".to_owned(), "x=y".to_owned()),
        ("HOME".to_owned(), "/h".to_owned()),
    ]);
    let ended = agent
        .session(SetupConnectionRequest {
            env,
            ..pipes(&["env"])
        })
        .finish();
    let text = ended.text();
    for line in [
        "A B=x=y",
        "HOME=/h",
        "TERM=linux",
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/innkeeper/bin",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in {text}");
    }
    for name in ["", "A=B", "A\0B"] {
        let env = HashMap::from([(name.to_owned(), String::new())]);
        let refusal = agent.refusal(SetupConnectionRequest {
            env,
            ..pipes(&["env"])
        });
        assert_eq!(refusal.error_number, libc::EINVAL);
    }
}

#[test]
fn nothing_of_the_agent_leaks_into_a_session() {
    let agent = Agent::start();
    let ended = agent.run(&[
        "sh",
        "-c",
        "ls /proc/$$/fd; grep -E '^Sig(Blk|Ign|Cgt)' /proc/self/status; umask",
    ]);
    let text = ended.text();
    let fds: Vec<&str> = text
        .lines()
        .take_while(|line| !line.starts_with("Sig"))
        .collect();
    assert_eq!(fds, ["0", "1", "2"], "{text}");
    for line in text
        .lines()
        .filter(|line| line.starts_with("SigBlk") || line.starts_with("SigIgn"))
    {
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
}

#[test]
fn working_directory() {
    let agent = Agent::start();
    let at = |cwd: &str| SetupConnectionRequest {
        cwd: cwd.to_owned(),
        ..pipes(&["pwd"])
    };
    assert_eq!(agent.session(at("/usr")).finish().text(), "/usr\n");
    let refusal = agent.refusal(at("/no/such/folder"));
    assert_eq!(refusal.error_number, libc::ENOENT);
    assert_eq!(refusal.failed_step(), FailedStep::Workdir);
    assert!(
        refusal.description.contains("/no/such/folder"),
        "{}",
        refusal.description
    );
    assert_eq!(agent.refusal(at("/etc/passwd")).error_number, libc::ENOTDIR);

    let mut holder = agent.session(SetupConnectionRequest {
        cwd: "/usr/bin".into(),
        ..pipes(&["cat"])
    });
    let request = SetupConnectionRequest {
        cwd: String::new(),
        cwd_pid: holder.pid,
        ..pipes(&["pwd"])
    };
    assert_eq!(agent.session(request).finish().text(), "/usr/bin\n");
    holder.stdin(b"");
    holder.finish();
    let request = SetupConnectionRequest {
        cwd: String::new(),
        cwd_pid: i32::MAX,
        ..pipes(&["pwd"])
    };
    assert_eq!(agent.refusal(request).error_number, libc::ENOENT);
}

#[test]
fn users() {
    let agent = Agent::start();
    let ask = |user: &str| SetupConnectionRequest {
        user: user.to_owned(),
        ..pipes(&["id"])
    };
    let refusal = agent.refusal(ask("nobody-like-this"));
    assert_eq!(refusal.error_number, libc::EINVAL);
    assert!(refusal.description.contains("nobody-like-this"));
    if !is_root() {
        return;
    }
    let text = agent.session(ask("1234:4321")).finish().text();
    assert!(
        text.contains("uid=1234") && text.contains("gid=4321"),
        "{text}"
    );
    assert!(
        !text.contains("0(root)"),
        "no group of the agent's is left: {text}"
    );
    let nobody = agent.session(ask("nobody")).finish().text();
    assert!(nobody.contains("(nobody)"), "{nobody}");
    let request = SetupConnectionRequest {
        nopty: false,
        ..ask("nobody")
    };
    let owner = SetupConnectionRequest {
        argv: vec!["sh".into(), "-c".into(), "stat -c %U $(tty)".into()],
        ..request
    };
    assert!(agent.session(owner).finish().text().contains("nobody"));
}

#[test]
fn not_found_and_not_executable() {
    let agent = Agent::start();
    let file = |name: &str, content: &str, mode: u32| {
        let path = agent.dir.join(name);
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let errno = |program: &str| {
        let refusal = agent.refusal(pipes(&[program]));
        assert_eq!(refusal.failed_step(), FailedStep::Command);
        refusal.error_number
    };
    assert_eq!(errno("no-such-command"), libc::ENOENT);
    assert_eq!(errno("/no/such/command"), libc::ENOENT);
    assert_eq!(errno(""), libc::ENOENT);
    assert_eq!(errno(&file("plain", "#!/bin/sh\n", 0o644)), libc::EACCES);
    assert_eq!(errno("/tmp"), libc::EACCES);
    assert_eq!(errno(&file("strange", "no program", 0o755)), libc::ENOEXEC);
    let orphan = file("orphan", "#!/no/such/interpreter\n", 0o755);
    let refusal = agent.refusal(pipes(&[&orphan]));
    assert_eq!(refusal.error_number, libc::ENOENT);
    assert!(refusal.description.contains("interpreter"));

    let env = HashMap::from([("PATH".to_owned(), format!("/no:{}", agent.dir.display()))]);
    let with_path = |name: &str| SetupConnectionRequest {
        env: env.clone(),
        ..pipes(&[name])
    };
    assert_eq!(agent.refusal(with_path("plain")).error_number, libc::EACCES);
    assert_eq!(agent.refusal(with_path("true")).error_number, libc::ENOENT);
    file("mine", "#!/bin/sh\nexit 9\n", 0o755);
    assert_eq!(agent.session(with_path("mine")).finish().code, Some(9));
    agent.wait_childless();
}

#[test]
fn targets() {
    let agent = Agent::start();
    let at = |target: &str| SetupConnectionRequest {
        target: target.to_owned(),
        ..pipes(&["true"])
    };
    assert_eq!(agent.session(at("/vm_shell")).finish().code, Some(0));
    assert_eq!(agent.refusal(at("penguin")).error_number, libc::ENOENT);
}

# SPDX-License-Identifier: Apache-2.0
"""OpenSSH's client and a guest without a network and without sshd."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

from guests import Inn
from openssh import HOST, NAME, Eventually, Ssh, proxy_of, running

MIB = 1 << 20


def test_a_command_has_its_streams_user_and_exit_code(ssh: Ssh) -> None:
    done = ssh(HOST, "cat; echo out; echo err >&2; id -u; echo $SHELL $HOME; exit 7", stdin=b"in\n")
    assert (done.returncode, done.stderr) == (7, b"err\n")
    assert done.stdout == b"in\nout\n0\n/bin/sh /root\n"
    assert ssh(HOST, "no-such-command").returncode == 127
    assert ssh(HOST, "kill -TERM $$").returncode == 143
    quoted = ssh(HOST, "printf '%s|' 'a  b' \"$0\" '%n'")
    assert quoted.stdout == b"a  b|/bin/sh|%n|"
    assert ssh(f"guest@{HOST}", "id -un").stdout == b"guest\n"
    missing = ssh(f"no-such-user@{HOST}", "true")
    assert missing.returncode == 125
    assert b'no user "no-such-user"' in missing.stderr
    assert ssh("-o", "SetEnv=LC_TEST=x", HOST, "echo $LC_TEST").stdout == b"x\n"


def test_ten_mebibytes_pass_unchanged_and_streams_end_by_themselves(ssh: Ssh) -> None:
    data = os.urandom(10 * MIB)
    assert hashlib.sha256(ssh(HOST, "cat", stdin=data).stdout).digest() == (
        hashlib.sha256(data).digest()
    )
    closed = ssh(HOST, "exec >&- 2>&-; wc -c > /tmp/count; exit 3", stdin=data[:MIB])
    assert (closed.returncode, closed.stdout) == (3, b"")
    assert ssh(HOST, "cat /tmp/count").stdout.strip() == b"%d" % MIB
    left = ssh(HOST, "exec <&-; exit 4", stdin=data[:MIB])
    assert left.returncode == 4


def _peak_bytes(ssh_config: Path, size: int) -> int:
    """The most memory that a proxy took to carry this much each way."""
    script = f"head -c {size} | wc -c; head -c {size} /dev/zero; echo; cat"
    with running(["ssh", "-F", str(ssh_config), HOST, script]) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(size // MIB):
            process.stdin.write(bytes(MIB))
        process.stdin.flush()
        assert process.stdout.readline().strip() == b"%d" % size
        left = size + 1
        while left:
            left -= len(process.stdout.read(min(left, MIB)))
        peak = re.search(r"VmHWM:\s+(\d+) kB", (proxy_of(process) / "status").read_text())
        assert peak is not None
        return int(peak[1]) * 1024


def test_more_data_takes_no_more_memory(ssh_config: Path) -> None:
    little, much = (_peak_bytes(ssh_config, size) for size in (8 * MIB, 64 * MIB))
    assert much - little < 16 * MIB, "the data must not be kept"


def _until(fd: int, wanted: bytes) -> bytes:
    """What a terminal shows, up to these bytes."""
    seen = b""
    limit = time.monotonic() + 30
    while wanted not in seen:
        ready, _, _ = select.select([fd], [], [], max(limit - time.monotonic(), 0))
        assert ready, f"{wanted!r} was not shown, but {seen!r}"
        seen += os.read(fd, 4096)
    return seen


def test_a_terminal(ssh_config: Path) -> None:
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
        process = subprocess.Popen(
            ["ssh", "-F", str(ssh_config), HOST],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "vt100"},
        )
        try:
            os.write(master, b"stty size; echo $TERM-$((1+1))\n")
            shown = _until(master, b"vt100-2")
            assert b"33 101" in shown
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
            process.send_signal(signal.SIGWINCH)
            os.write(
                master, b"until [ \"$(stty size)\" = '40 120' ]; do :; done; echo new-$((2+2))\n"
            )
            _until(master, b"new-4")
            # What is to be interrupted speaks for itself: while it starts, it ignores that.
            os.write(master, b"sh -c 'echo sleep-$((3+3)); exec sleep 1000'\n")
            _until(master, b"sleep-6")
            os.write(master, b"\x03")
            os.write(master, b"echo after-$?; exit 9\n")
            _until(master, b"after-130")
            assert process.wait(20) == 9
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(master)
        os.close(slave)


def test_a_command_ends_with_its_client(ssh_config: Path, ssh: Ssh, eventually: Eventually) -> None:
    with running(["ssh", "-F", str(ssh_config), HOST, "echo $$; exec sleep 1000"]) as process:
        assert process.stdout is not None
        pid = process.stdout.readline().strip().decode()
        assert ssh(HOST, f"kill -0 {pid}").returncode == 0
    eventually(lambda: ssh(HOST, f"kill -0 {pid}").returncode == 1)


def test_scp_both_ways(ssh: Ssh, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "file with space").write_bytes(os.urandom(300_000))
    (tree / "run").write_text("#!/bin/sh\n")
    (tree / "run").chmod(0o754)
    os.utime(tree / "run", (1_500_000_000, 1_600_000_000))
    (tree / "sub").chmod(0o711)
    up = ssh("-rp", str(tree), f"{HOST}:/tmp/up", program="scp")
    assert up.returncode == 0, up.stderr
    listed = ssh(HOST, "stat -c '%a %Y' /tmp/up/run; stat -c %a /tmp/up/sub")
    assert listed.stdout == b"754 1600000000\n711\n"
    down = ssh("-rp", f"{HOST}:/tmp/up", str(tmp_path / "down"), program="scp")
    assert down.returncode == 0, down.stderr
    back = tmp_path / "down"
    name = Path("sub", "file with space")
    assert (back / name).read_bytes() == (tree / name).read_bytes()
    found = (back / "run").stat()
    assert (found.st_mode & 0o777, found.st_mtime) == (0o754, 1_600_000_000)
    missing = ssh(f"{HOST}:/tmp/nowhere", str(tmp_path), program="scp")
    assert missing.returncode == 1
    assert b"No such file" in missing.stderr


def test_scp_as_another_user_has_only_its_rights(ssh: Ssh, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    done = ssh(str(tmp_path / "file"), f"guest@{HOST}:/root/file", program="scp")
    assert done.returncode == 1
    assert b"ermission denied" in done.stderr
    done = ssh(str(tmp_path / "file"), f"guest@{HOST}:/tmp/file", program="scp")
    assert done.returncode == 0, done.stderr
    assert ssh(HOST, "stat -c %U /tmp/file").stdout == b"guest\n"


def test_an_sftp_batch(ssh: Ssh, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("alpha")
    batch = f"""mkdir /tmp/s
cd /tmp/s
put {tmp_path}/a
rename a b
ln -s b c
ln b d
chmod 600 b
ls -l
get c {tmp_path}/c
df
rm d
rm c
-rmdir nowhere
"""
    done = ssh("-b", "-", HOST, program="sftp", stdin=batch.encode())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "c").read_text() == "alpha"
    assert re.search(rb"-rw------- +2 0 +0 +5 .* b\n", done.stdout), done.stdout
    assert ssh(HOST, "ls /tmp/s; cat /tmp/s/b").stdout == b"b\nalpha"


def test_rsync_both_ways(guest_programs: str, ssh_config: Path, tmp_path: Path) -> None:
    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "x").write_bytes(os.urandom(500_000))
    for source, target in (
        (f"{tmp_path}/tree/", f"{HOST}:/tmp/synced"),
        (f"{HOST}:/tmp/synced/", f"{tmp_path}/back"),
    ):
        done = subprocess.run(
            ["rsync", "-a", "--stats", "-e", f"ssh -F {ssh_config}", source, target],
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "back" / "sub" / "x").read_bytes() == (
        tmp_path / "tree" / "sub" / "x"
    ).read_bytes()


def test_machines_that_cannot_answer(inn: Inn, ssh: Ssh) -> None:
    unknown = ssh("sshbax.inn", "true")
    assert unknown.returncode == 255
    assert b"unknown machine 'sshbax'" in unknown.stderr
    assert b"did you mean 'sshbox'" in unknown.stderr
    assert inn("create", "sshcold").code == 0
    cold = ssh("sshcold.inn", "true")
    assert cold.returncode == 255
    assert b"the machine 'sshcold' is created, not running" in cold.stderr
    assert b"inn start sshcold" in cold.stderr
    assert inn("rm", "sshcold").code == 0
    assert inn("pause", NAME).code == 0
    try:
        paused = ssh(HOST, "true")
    finally:
        assert inn("resume", NAME).code == 0
    assert paused.returncode == 255
    assert b"the machine 'sshbox' is paused" in paused.stderr
    assert b"inn resume sshbox" in paused.stderr
    assert inn("ssh-proxy", NAME, "23").code == 2


def test_a_guest_that_ends_is_told(inn: Inn, ssh_config: Path) -> None:
    assert inn("create", "sshends").code == 0
    assert inn("start", "sshends").code == 0
    argv = ["ssh", "-F", str(ssh_config), "sshends.inn", "echo up; sleep 1000"]
    try:
        with running(argv) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdout.readline() == b"up\n"
            assert inn("stop", "-t", "0", "sshends").code == 0
            assert process.wait(20) == 255
            assert b"inn: error: the guest 'sshends' is stopped" in process.stderr.read()
    finally:
        assert inn("rm", "-f", "sshends").code == 0


def test_inn_ssh_needs_no_configuration(ssh_config: Path, inn: Inn) -> None:
    done = inn("ssh", NAME, "cat; exit 6", stdin=b"plain\n")
    assert (done.code, done.stdout) == (6, b"plain\n"), done.error
    assert inn("ssh", f"guest@{NAME}", "id -un").stdout == b"guest\n"
    assert inn("ssh", "sshbax").code == 2


def test_the_configuration_is_installed_and_removed(
    ssh_config: Path, inn: Inn, ssh: Ssh, tmp_path: Path
) -> None:
    env = {"HOME": str(tmp_path)}
    own = tmp_path / ".ssh" / "config"
    own.parent.mkdir(mode=0o700)
    own.write_text("Host other\n    User joe\n")
    own.chmod(0o640)
    assert b"Host *.inn" in inn("ssh-config", env=env).stdout
    assert not (own.parent / "innkeeper.config").exists()
    assert "is in place" in inn("ssh-config", "--install", env=env).error
    installed = own.read_bytes()
    assert installed.endswith(b"\nHost other\n    User joe\n")
    assert own.stat().st_mode & 0o777 == 0o640
    assert "was in place" in inn("ssh-config", "--install", env=env).error
    assert own.read_bytes() == installed
    done = subprocess.run(
        ["ssh", "-F", str(own), HOST, "echo installed"],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == b"installed\n", done.stderr
    assert inn("ssh-config", "--remove", env=env).code == 0
    assert own.read_text() == "Host other\n    User joe\n"
    assert sorted(path.name for path in own.parent.iterdir()) == ["config"]
    assert "was not there" in inn("ssh-config", "--remove", env=env).error

# SPDX-License-Identifier: Apache-2.0
"""The namespaces of a share server, with a shell in the server's place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from innkeeper.system import share_sandbox, share_users

PROGRAM = (sys.executable, "-I", "-S", share_sandbox.__file__)

UID, GID = os.geteuid(), os.getegid()
OWN = "host;uid=0;gid=0" if UID == 0 else f"user;uid=0;gid=0;uids=0-{UID}-1;gids=0-{GID}-1"

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def serve(root: Path) -> Iterator[Serve]:
    """Start a shell as the server; it says "up" first. As root, with the host's users."""
    started: list[subprocess.Popen[str]] = []

    def run(
        *shares: str, users: str = OWN, program: tuple[str, ...] = PROGRAM, root: Path = root
    ) -> subprocess.Popen[str]:
        shell = ("/bin/sh", "-c", f"cd {root}/view && echo up && exec sh 2>&1")
        process = subprocess.Popen(
            [*program, "serve", str(root), users, *shares, "--", *shell],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout is not None
        if process.stdout.readline() != "up\n":
            assert process.stderr is not None
            said = process.stderr.read()
            if "Operation not permitted" in said:
                pytest.skip(f"this host lets nobody make namespaces: {said}")
            pytest.fail(said)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def ask(process: subprocess.Popen[str], command: str) -> str:
    """What the shell answers, in one line."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"echo $({command} 2>&1)\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def change(
    verb: str,
    process: subprocess.Popen[str],
    root: Path,
    what: str,
    program: tuple[str, ...] = PROGRAM,
) -> tuple[int, str]:
    done = subprocess.run(
        [*program, verb, str(process.pid), str(root), what],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr.strip()


def test_a_server_sees_its_shares_and_cannot_change_what_is_around(
    root: Path, tmp_path: Path, serve: Serve
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    process = serve(f"a=rw={tmp_path}/one", f"b=ro={tmp_path}/two")
    assert ask(process, "ls") == "a b"
    assert ask(process, "cat a/file b/file") == "onetwo"
    assert ask(process, "touch a/new && echo made") == "made"
    assert (tmp_path / "one" / "new").exists()
    assert "Read-only" in ask(process, "touch b/new")
    assert "Read-only" in ask(process, "touch new")
    # Nothing of it is to be seen outside.
    assert list(root.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts something to share")
def test_read_only_holds_for_what_is_mounted_below(
    tmp_path: Path, serve: Serve, request: pytest.FixtureRequest
) -> None:
    below = tmp_path / "shared" / "below"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "below", below], check=True)
    request.addfinalizer(lambda: subprocess.run(["umount", below], check=True))
    process = serve(f"a=ro={tmp_path}/shared", f"b=rw={tmp_path}/shared")
    assert "Read-only" in ask(process, "touch a/below/new")
    assert ask(process, "touch b/below/new && echo made") == "made"


def test_shares_come_and_go(root: Path, tmp_path: Path, serve: Serve) -> None:
    (tmp_path / "one").mkdir()
    process = serve()
    assert ask(process, "ls") == ""
    assert change("add", process, root, f"a=ro={tmp_path}/one") == (0, "")
    assert "Read-only" in ask(process, "touch a/new")
    # Each question has a shell of its own; this one itself stays in the folder.
    assert process.stdin is not None
    process.stdin.write("cd a\n")
    assert ask(process, "pwd").endswith("/a")
    code, said = change("remove", process, root, "a")
    assert (code, said) == (2, "unmount a: Device or resource busy")
    assert ask(process, "ls && echo still there") == "still there"
    process.stdin.write("cd ..\n")
    assert ask(process, "ls") == "a"
    assert change("remove", process, root, "a") == (0, "")
    assert ask(process, "ls") == ""
    assert change("add", process, root, f"a=rw={tmp_path}/one") == (0, "")
    process.stdin.write("cd a\n")
    assert ask(process, "touch new && echo made") == "made"
    assert change("detach", process, root, "a") == (0, "")
    process.stdin.write(f"cd {root}/view\n")
    assert ask(process, "ls") == ""


def test_a_folder_that_is_missing_is_named(root: Path, tmp_path: Path, serve: Serve) -> None:
    process = serve()
    code, said = change("add", process, root, f"a=rw={tmp_path}/none")
    assert (code, said) == (1, f"{tmp_path}/none is no folder")
    assert ask(process, "ls") == ""
    assert change("remove", process, root, "a")[0] == 1


@pytest.mark.skipif(UID != 0, reason="only root maps on mounts")
def test_a_mount_maps_users_and_refuses_others(root: Path, tmp_path: Path, serve: Serve) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "hosts").touch()
    os.chown(folder / "hosts", 1234, 1234)
    (folder / "others").touch()
    os.chown(folder / "others", 2000, 2000)
    maps = "uids=0-0-1+1234-1000-1;gids=0-0-1+1234-1000-1"
    process = serve(f"a=rw;{maps}={folder}")
    change("add", process, root, f"b=ro;{maps}={folder}")
    # From inside, since the ways there are for root alone.
    assert process.stdin is not None
    process.stdin.write("cd a\n")
    shown = "1000:1000 65534:65534 1000:1000"
    assert ask(process, "stat -c %u:%g hosts others ../b/hosts") == shown
    user = "setpriv --clear-groups --reuid={0} --regid={0} sh -c '{1}'"
    made_it = "touch new && mv new moved && echo made"
    assert ask(process, user.format(1000, made_it)) == "made"
    made = (folder / "moved").stat()
    assert (made.st_uid, made.st_gid) == (1234, 1234)
    assert "Value too large" in ask(process, user.format(2000, "touch new"))
    assert "Value too large" in ask(process, "chown 2000 moved")
    process.stdin.write("cd ../b\n")
    assert "Read-only" in ask(process, user.format(1000, "touch new"))
    # Outside of the share nothing is mapped.
    assert (folder / "hosts").stat().st_uid == 1234


@pytest.mark.skipif(UID != 0, reason="only root maps on mounts")
def test_a_file_system_that_cannot_map_is_named(root: Path, tmp_path: Path, serve: Serve) -> None:
    process = serve()
    maps = "uids=0-0-1;gids=0-0-1"
    code, said = change("add", process, root, f"a=ro;{maps}=/sys/kernel")
    assert (code, said) == (1, "sysfs at /sys/kernel lets no mount have a map of users")
    assert ask(process, "ls") == ""
    assert change("add", process, root, f"a=ro;{maps}={tmp_path}") == (0, "")


# What a virtiofsd does for a request of a guest's user, and what came of it: it is told
# that it is root, without which the one in Rust does not begin.
SWITCH = (
    "import os; os.setresgid(-1, 7, -1); os.setresuid(-1, 7, -1); os.setgroups([]); "
    "print(os.geteuid(), os.getegid(), os.getuid()); open('a/new', 'w').close()"
)


def test_a_squashed_server_stays_who_it_is(tmp_path: Path, serve: Serve) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    os.chown(folder, UID, GID)
    own = "user;uids=1000-{0}-1;gids=1000-{1}-1" if UID else "host"
    maps = f";uids={UID}-1000-1;gids={GID}-1000-1" if UID == 0 else ""
    users = f"{own.format(UID, GID)};uid=1000;gid=1000;squash"
    process = serve(f"a=rw{maps}={folder}", users=users)
    assert ask(process, f'{sys.executable} -I -S -c "{SWITCH}"') == "0 1000 1000"
    assert ask(process, "stat -c %u:%g a/new") == "1000:1000"
    made = (folder / "new").stat()
    assert (made.st_uid, made.st_gid) == (UID, GID)
    # It has its rights, which a virtiofsd looks for, without being root.
    assert int(ask(process, "sed -n s/CapEff:.//p /proc/self/status"), 16) & 0xDF == 0xDF


def test_a_users_server_survives_dropping_groups(serve: Serve) -> None:
    own = f"user;uid=0;gid=0;uids=0-{UID}-1;gids=0-{GID}-1"
    process = serve(users=own)
    drop = "import os; os.setgroups([]); print('dropped')"
    assert ask(process, f'{sys.executable} -I -S -c "{drop}"') == "dropped"


def test_ids_of_others_come_from_newuidmap_or_not_at_all(tmp_path: Path, serve: Serve) -> None:
    """Stand-ins that say what they were asked for, and cannot map."""
    asked = tmp_path / "asked"
    for name in ("newuidmap", "newgidmap"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho {name} "$@" >> {asked}\nexit 1\n')
        (tmp_path / name).chmod(0o755)
    users = f"user;uid=0;gid=0;uids=0-{UID}-1+1-100000-5;gids=0-{GID}-1+1-100000-6;tools={tmp_path}"
    process = serve(users=users)
    assert asked.read_text().splitlines() == [
        f"newuidmap {process.pid} 0 {UID} 1 1 100000 5",
        f"newgidmap {process.pid} 0 {GID} 1 1 100000 6",
    ]
    # Nobody asked for more: the guest's root alone is somebody, as without them.
    assert ask(process, "cat /proc/self/uid_map").split() == ["0", str(UID), "1"]
    with pytest.raises(pytest.fail.Exception, match="could not map the guest's users"):
        serve(users=f"{users};must")


NOBODY = 65534
DROP = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--")
PYTHON = "/usr/bin/python3"


@pytest.fixture
def home_of_nobody() -> Iterator[Path]:
    """A folder of the user nobody's, with the program in it and a line for /etc/subuid."""
    for needed in (PYTHON, "/usr/bin/newuidmap", "/usr/bin/newgidmap", "/etc/subuid"):
        if UID != 0 or not Path(needed).exists():
            pytest.skip(f"root gives a user ids, and needs {needed} for it")
    home = Path(tempfile.mkdtemp(prefix="inn-test-", dir="/tmp"))
    for source in (share_sandbox.__file__, share_users.__file__):
        shutil.copy(source, home)
    (home / "ids").write_text(f"{NOBODY}:100000:2000\n")
    for name in ("root", "one"):
        (home / name).mkdir()
    (home / "one" / "mine").touch()
    for path in (home, *home.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(path.stat().st_mode | 0o055)
    yield home
    shutil.rmtree(home)


def test_a_users_guest_has_users_by_subordinate_ids(home_of_nobody: Path, serve: Serve) -> None:
    home = home_of_nobody
    root = home / "root"
    own = (*DROP, PYTHON, "-I", "-S", str(home / "share_sandbox.py"))
    mounts = " && ".join(f"mount --bind {home}/ids /etc/{name}" for name in ("subuid", "subgid"))
    program = ("unshare", "--mount", "sh", "-c", f'{mounts} && exec "$@"', "sh", *own)
    ids = f"0-100000-1000+1000-{NOBODY}-1+1001-101000-1000"
    users = f"user;uid=0;gid=0;uids={ids};gids={ids};tools=/usr/bin;must"
    process = serve(f"a=rw={home}/one", users=users, program=program, root=root)
    # Who shares is the guest's user 1000; its root is another, with rights over all of them.
    assert ask(process, "id -u; stat -c %u:%g a/mine; chmod 755 a && echo done") == (
        "0 1000:1000 done"
    )
    assert process.stdin is not None
    process.stdin.write("chmod 777 a; cd a\n")
    for user, host in ((0, 100000), (5, 100005), (1000, NOBODY), (1001, 101000)):
        switch = f"import os; os.setresgid(-1, {user}, -1); os.setresuid(-1, {user}, -1); "
        make = f"os.close(os.open('{user}', os.O_CREAT))"
        # From inside, since the ways there are for the server alone.
        assert ask(process, f'{PYTHON} -I -S -c "{switch}{make}"') == ""
        made = (home / "one" / str(user)).stat()
        assert (made.st_uid, made.st_gid) == (host, host)
    # The keeper is that user alone: it changes what the server sees, and ends it.
    assert change("add", process, root, f"b=ro={home}/one", own) == (0, "")
    assert "Read-only" in ask(process, "touch ../b/new")
    assert change("remove", process, root, "b", own) == (0, "")
    subprocess.run([*DROP, "kill", "-9", str(process.pid)], check=True)
    assert process.wait(20) == -9

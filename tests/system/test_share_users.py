# SPDX-License-Identifier: Apache-2.0
"""Whom a guest's users are on the host, in shares that say it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from full_kernel import provide_full_kernel
from guests import Inn

from innkeeper.errors import EXIT_FAILURE, EXIT_USAGE

NAME = "users"
OURS, OTHERS = 1234, 4321

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root maps users on mounts")


@pytest.fixture(params=["virtiofs", "9p"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, inn: Inn) -> Iterator[Path]:
    """A folder that everybody may write to, in a guest that runs: its user 1000 is ours."""
    made = tmp_path / "one"
    made.mkdir()
    made.chmod(0o777)
    for name, owner in (("ours", OURS), ("others", OTHERS)):
        (made / name).touch()
        os.chown(made / name, owner, owner)
    transport: tuple[str, ...] = ("--share-transport", request.param)
    if request.param == "9p":
        transport = (*transport, "--kernel", str(provide_full_kernel()))
    share = f"{made}:/one:id=1000-{OURS}"
    assert inn("create", NAME, *transport, "-v", share).code == 0
    started = inn("start", NAME)
    assert started.code == 0, started.error
    yield made
    inn("rm", "-f", NAME)


def do(inn: Inn, user: int, script: str) -> list[str]:
    """What a user of the guest gets for it."""
    done = inn("exec", "-u", str(user), NAME, "--", "sh", "-c", f"{{ {script}; }} 2>&1")
    return done.stdout.decode().splitlines()


MAKE = "echo x > made && mv made moved && ln moved linked && mkdir folder && ln -s x link"


def test_users_are_mapped_both_ways(folder: Path, inn: Inn) -> None:
    shown = "stat -c '%n %u:%g' ours others moved"
    assert do(inn, 1000, f"cd /one && {MAKE} && {shown}") == [
        *("ours 1000:1000", "others 65534:65534", "moved 1000:1000"),
    ]
    for name in ("moved", "linked", "folder", "link"):
        made = (folder / name).lstat()
        assert (name, made.st_uid, made.st_gid) == (name, OURS, OURS)
    (refused,) = do(inn, 2000, "touch /one/new")
    assert "Value too large" in refused
    (refused,) = do(inn, 0, "chown 2000 /one/moved")
    assert "Value too large" in refused
    # The guest's root is root, as without a map.
    assert do(inn, 0, "touch /one/roots && chown 1000:1000 /one/moved") == []
    assert (folder / "roots").stat().st_uid == 0

    # Beside it, one with another map that the guest cannot write to.
    share = ("share", "add", NAME, f"{folder}:/two:ro")
    added = inn(*share, "--uid-map", f"7:{OTHERS}", "--gid-map", f"7:{OTHERS}")
    assert added.code == 0, added.error
    assert do(inn, 7, "stat -c %u:%g /two/others /two/ours") == ["7:7", "65534:65534"]
    (refused,) = do(inn, 7, "touch /two/others")
    assert "Read-only" in refused
    told = inn("share", "ls", NAME).stdout.decode()
    assert f"id=1000-{OURS}" in told
    assert f"id=7-{OTHERS}" in told
    mixed = inn("share", "add", NAME, f"{folder}:/three:squash")
    assert (mixed.code, "do not agree" in mixed.error) == (EXIT_USAGE, True)

    # Alone, a share may make all users one; its server is another then.
    for place in ("/one", "/two"):
        assert inn("share", "rm", NAME, place).code == 0
    os.chown(folder, OURS, OURS)
    added = inn("share", "add", NAME, f"{folder}:/three:id=1000-{OURS},squash")
    assert added.code == 0, added.error
    assert do(inn, 9, "cd /three && echo x > nines && mv nines ninth && stat -c %u ninth") == [
        "1000"
    ]
    assert do(inn, 0, "cd /three && mkdir zeros && stat -c %u zeros") == ["1000"]
    assert [(folder / name).stat().st_uid for name in ("ninth", "zeros")] == [OURS, OURS]


def test_what_cannot_be_mapped_is_said_before_the_start(inn: Inn) -> None:
    done = inn("run", "-v", "/sys/kernel:/k:id=1000-1234", "--", "true")
    assert done.code == EXIT_FAILURE
    assert "sysfs at /sys/kernel lets no mount have a map of users" in done.error
    assert "to fix it: share from ext4" in done.error

# SPDX-License-Identifier: Apache-2.0
"""Folders of the host in a guest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from full_kernel import provide_full_kernel
from guests import Inn


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Two folders, each with a file that says its name."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(f"{name}\n")
    return tmp_path


@pytest.fixture(params=["virtiofs", "9p"])
def transport(request: pytest.FixtureRequest) -> tuple[str, ...]:
    """Options for a guest whose shares come this way; Debian's cloud kernel has no 9p."""
    if request.param == "9p":
        return ("--share-transport", "9p", "--kernel", str(provide_full_kernel()))
    return ("--share-transport", request.param)


# Every line of its output is a claim that the test makes.
SCRIPT = r"""
cat /mnt/one/file '/mnt/a b/file'
echo from the guest > /mnt/one/written
for read_only in '/mnt/a b' /run/innkeeper/shares; do
    touch "$read_only/new" 2>&1 | sed 's/.*: //'
done
for link in absolute upwards sideways; do cat /mnt/one/$link 2>&1 | sed 's/.*: //'; done
cat /mnt/one/../secret 2>&1 | sed 's/.*: //'
cat /mnt/one/hosts | head -n 1
echo /mnt/one/n*me | od -An -c | tr -d ' \n'
"""


def test_a_run_sees_what_it_was_given_and_nothing_else(
    folders: Path, inn: Inn, transport: tuple[str, ...]
) -> None:
    (folders / "secret").write_text("secret\n")
    links = {
        "absolute": str(folders / "secret"),
        "upwards": "../secret",
        "sideways": "../two/file",
        "hosts": "/etc/passwd",
    }
    for name, target in links.items():
        (folders / "one" / name).symlink_to(target)
    Path(os.fsdecode(os.fsencode(folders / "one") + b"/n\xe0me")).touch()
    done = inn(
        "run",
        *transport,
        "-v",
        "one:/mnt/one",
        "-v",
        f"{folders}/two:/mnt/a b:ro",
        "--",
        "sh",
        "-c",
        SCRIPT,
        cwd=folders,
    )
    assert done.code == 0, done.error
    assert done.stdout.decode().splitlines() == [
        "one",
        "two",
        "Read-only file system",
        "Read-only file system",
        *(4 * ["No such file or directory"]),
        # A link is followed in the guest, as on every file system.
        "root:x:0:0:root:/root:/bin/sh",
        r"/mnt/one/n340me\n",
    ]
    assert (folders / "one" / "written").read_text() == "from the guest\n"
    assert not (folders / "two" / "new").exists()

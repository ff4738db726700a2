# SPDX-License-Identifier: Apache-2.0
"""`--root host` by value: what the command, the machine and the kernel are told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from innkeeper.cli.host_root import _SHAREABLE, as_on_host, writable_shares
from innkeeper.errors import ImageError, UsageError
from innkeeper.hypervisors.qemu.host_root import host_root_modules, host_root_words
from innkeeper.model.image import Image
from innkeeper.model.machine import Command, Machine
from innkeeper.model.share import ServerFacts, SharePlan
from innkeeper.shares.plan import Choice, plan_server, sandbox_argv
from innkeeper.shares.users import HostIds, plan_users
from innkeeper.system.share_sandbox import HIDDEN

HOST = Machine(name="box", root="host")


def plan(uid: int) -> SharePlan:
    server = ServerFacts(path="/virtiofsd", flavour="c", version="7.2.22")
    choice = Choice(transport="virtiofs", server=server, reason="")
    return plan_server(
        choice,
        (),
        root="/run/x",
        cache="auto",
        users=plan_users((), HostIds(uid=uid, gid=uid)),
        whole_host=True,
    )


def test_a_command_starts_where_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/my/bin")
    monkeypatch.setenv("HOME", "/my")
    monkeypatch.chdir("/usr")
    command, table = as_on_host(Command(env={"HOME": "/other"}), {})
    assert (command.workdir, command.env["PATH"], command.env["HOME"]) == (
        *("/usr", "/my/bin"),
        "/other",
    )
    assert table == {}
    # Another user's home is his own.
    command, _ = as_on_host(Command(user="1000", workdir="/"), {})
    assert (command.workdir, "HOME" in command.env) == ("/", False)


def test_a_current_folder_that_the_guest_lacks_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "cwd", lambda: Path("/tmp/a/b"))
    _, table = as_on_host(Command(), {})
    assert table == {"shares": ["/tmp/a/b:/tmp/a/b:ro"]}
    shares = writable_shares(["/tmp/a/../a"])
    assert shares == ["/tmp/a:/tmp/a"]
    _, table = as_on_host(Command(), {"shares": shares})
    assert table == {"shares": shares}
    assert set(_SHAREABLE) < set(HIDDEN)


def test_the_root_is_served_first_and_not_as_mounts() -> None:
    argv = sandbox_argv(plan(0), python="python", program="p", fd=3)
    assert argv[4:8] == ["serve", "/run/x", "host;uid=0;gid=0", "root=root=/"]
    assert "announce_submounts" not in argv


def test_the_agent_is_told_whose_files_it_gets() -> None:
    words = ("inn.root=share:root", "ro", "inn.overlay=temp")
    assert host_root_words(HOST, plan(0)) == (*words, "inn.units=off")
    assert host_root_words(HOST, plan(1000)) == (*words, "inn.foreign=on", "inn.units=off")
    assert host_root_words(HOST, None) == ()


def test_what_makes_no_sense_is_refused() -> None:
    for other in ({"image": "debian"}, {"root_device": "pmem"}):
        with pytest.raises(UsageError, match="takes the place of an image's root"):
            Machine(name="box", root="host", **other)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is not kept"):
        Machine(name="box", root="host", root_overlay="keep")


def test_a_kernel_without_overlay_is_refused(image: Image) -> None:
    bare = msgspec.structs.replace(image, lacks=("overlay",))
    with pytest.raises(ImageError, match="no driver overlay") as caught:
        host_root_modules(HOST, bare)
    assert "--root-overlay none" in caught.value.fix
    assert host_root_modules(msgspec.structs.replace(HOST, root_overlay="none"), bare) == ()
    assert host_root_modules(HOST, image) == ("overlay",)

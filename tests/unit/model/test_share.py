# SPDX-License-Identifier: Apache-2.0
"""Shares as people write them."""

from __future__ import annotations

import pytest

from innkeeper.errors import UsageError
from innkeeper.model.machine import Machine
from innkeeper.model.share import Share, anchor_share, parse_share
from innkeeper.model.toml import change_machine, parse_machine


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("/a:/b", Share(host="/a", guest="/b")),
        ("/a:/b:ro", Share(host="/a", guest="/b", read_only=True)),
        ("/a:/b:rw", Share(host="/a", guest="/b")),
        ("/a:x y/ä:/b c/ä", Share(host="/a:x y/ä", guest="/b c/ä")),
        ("/a://b//c/", Share(host="/a", guest="/b/c")),
        ("/ro:/ro:ro", Share(host="/ro", guest="/ro", read_only=True)),
    ],
)
def test_a_share_is_a_folder_and_a_place(text: str, share: Share) -> None:
    assert parse_share(text) == share
    assert parse_share(str(share)) == share


@pytest.mark.parametrize(
    "text",
    [
        *("", "/a", "a:/b", ":/b", "/a:b", "/a:", "/a:/", "/a:/x/../y", "/a:/proc/x", "/a:/dev"),
        *("/a:/sys", '/a:/x"y', "/a:/x\ny", "/a:/" + "x" * 600, "/a:/b:rx"),
    ],
)
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_share(text)
    assert caught.value.fix


def test_only_the_host_folder_may_be_relative() -> None:
    assert anchor_share("x:/b", "/home/me") == "/home/me/x:/b"
    assert anchor_share(".:/b:ro", "/") == "/.:/b:ro"
    assert anchor_share("/a:/b", "/home/me") == "/a:/b"


def test_keys_differ_by_place_alone() -> None:
    keys = {parse_share(text).key for text in ("/a:/b", "/c:/b:ro")}
    assert len(keys) == 1
    assert parse_share("/a:/c").key not in keys


def test_shares_are_keys_of_a_machine_file() -> None:
    machine = parse_machine('name = "m"\nshares = ["/a:/b", "/c:/d:ro"]\n', source="f")
    assert [str(share) for share in machine.shares] == ["/a:/b", "/c:/d:ro"]
    assert machine.share_cache == "never"
    changed = change_machine(machine, {"share_cache": "auto"}, source="f")
    assert changed.shares == machine.shares
    with pytest.raises(UsageError, match="two shares at /b"):
        parse_machine('name = "m"\nshares = ["/a:/b", "/c:/b:ro"]\n', source="f")


def test_a_machine_with_shares_survives_its_file() -> None:
    import msgspec

    machine = Machine(name="m", shares=(parse_share("/a:/b:ro"),))
    assert msgspec.json.decode(msgspec.json.encode(machine), type=Machine) == machine

# SPDX-License-Identifier: Apache-2.0
"""Keys that leave a session."""

from __future__ import annotations

import pytest

from innkeeper.agent.keys import DEFAULT_KEYS, KeyFilter, parse_keys
from innkeeper.errors import UsageError


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        (DEFAULT_KEYS, b"\x1dd"),
        ("ctrl-p,ctrl-q", b"\x10\x11"),
        ("Ctrl-P,D", b"\x10D"),
        ("ctrl-@,ctrl-_", b"\x00\x1f"),
        ("", b""),
    ],
)
def test_names(text: str, keys: bytes) -> None:
    assert parse_keys(text) == keys


@pytest.mark.parametrize("text", ["ctrl-", "ctrl-1", "ctrl", "x,", "é", "ctrl-ctrl-a", "a," * 20])
def test_nonsense(text: str) -> None:
    with pytest.raises(UsageError):
        parse_keys(text)


@pytest.mark.parametrize(
    ("typed", "through", "complete"),
    [
        ([b"abc"], b"abc", False),
        ([b"a\x1ddrest"], b"a", True),
        ([b"a\x1d", b"d"], b"a", True),
        ([b"\x1d", b"x"], b"\x1dx", False),
        ([b"\x1d\x1d", b"d"], b"\x1d", True),
        ([b"d\x1d"], b"d", False),
    ],
)
def test_the_keys_are_found(typed: list[bytes], through: bytes, complete: bool) -> None:
    keys = KeyFilter(b"\x1dd")
    assert b"".join(keys.feed(data) for data in typed) == through
    assert keys.complete == complete

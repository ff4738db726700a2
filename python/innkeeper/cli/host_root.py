# SPDX-License-Identifier: Apache-2.0
"""`inn run --root host`: a command finds itself where it was called, as on the host."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from innkeeper.model.machine import Command
from innkeeper.model.share import parse_share

# Of these a guest has its own, which a share may lie in.
_SHAREABLE = ("run", "tmp")

# What a command is found by, where its settings are, and how it speaks.
_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL")


def writable_shares(folders: Iterable[str]) -> list[str]:
    """Folders of the host as shares at their own places, by their real paths."""
    return [f"{path}:{path}" for path in (Path(folder).resolve() for folder in folders)]


def as_on_host(command: Command, table: dict[str, Any]) -> tuple[Command, dict[str, Any]]:
    """The command in the current folder and with the host's PATH, and the machine for it.

    A current folder in /tmp or /run, of which a guest has its own, is shown read-only.
    """
    folder = Path.cwd()
    if command.workdir is None:
        shares = list(table.get("shares", ()))
        if folder.parts[1:2] and folder.parts[1] in _SHAREABLE and not _is_shared(folder, shares):
            table = {**table, "shares": [*shares, f"{folder}:{folder}:ro"]}
        command = msgspec.structs.replace(command, workdir=str(folder))
    given = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if command.user is not None:
        # That user's own, by the host's /etc/passwd.
        given.pop("HOME", None)
    return msgspec.structs.replace(command, env={**given, **command.env}), table


def _is_shared(folder: Path, shares: Iterable[str]) -> bool:
    return any(folder.is_relative_to(parse_share(text).guest) for text in shares)

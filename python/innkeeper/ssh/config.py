# SPDX-License-Identifier: Apache-2.0
"""What makes `ssh NAME.inn` work: a file of ours, included by the user's own configuration.

::

    ~/.ssh/config             two lines at its top, nothing else of it is touched
    ~/.ssh/innkeeper.config   the options, rewritten by every --install
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from innkeeper.registry.layout import Layout
from innkeeper.ssh.mapping import SUFFIX
from innkeeper.system.files import make_folder, naming_errors, write_atomic

_FILE_NAME = "innkeeper.config"
_MARK = b"# innkeeper: machines as NAME.inn; `inn ssh-config --remove` takes these two lines away"
# Where a process of another environment, such as an editor's, must look for the machines too.
_FOLDERS = ("INN_RUNTIME_DIR", "INN_CACHE_DIR", "INN_STATE_DIR")
# The same as in ssh/hostkey.py, which costs an import of the SSH library.
_ALIAS = "innkeeper"

Options = tuple[tuple[str, str], ...]


def _escaped(text: str) -> str:
    """Text in which ssh finds no token to expand (ssh_config(5), TOKENS)."""
    return text.replace("%", "%%")


def _quoted(path: Path) -> str:
    return f'"{_escaped(str(path))}"'


def plan_options(layout: Layout, program: tuple[str, ...], env: Mapping[str, str]) -> Options:
    """The options of ssh_config(5) for our machines. Pure.

    :param program: the argv that starts `inn`.
    """
    folders = [f"{name}={env[name]}" for name in _FOLDERS if env.get(name)]
    words = [*(["env", *folders] if folders else []), *program, "ssh-proxy"]
    proxy = _escaped(shlex.join(words)) + " %n %p"
    return (
        ("IgnoreUnknown", "WarnWeakCrypto"),
        ("ProxyCommand", proxy),
        ("User", "root"),
        # Both ends are this user's processes on this host, so there is nobody to
        # ask about and nothing to prove.
        ("HostKeyAlias", _ALIAS),
        ("HostKeyAlgorithms", "ssh-ed25519"),
        ("UserKnownHostsFile", _quoted(layout.ssh.known_hosts)),
        ("GlobalKnownHostsFile", "/dev/null"),
        ("StrictHostKeyChecking", "yes"),
        ("UpdateHostKeys", "no"),
        ("WarnWeakCrypto", "no"),
    )


def plan_file(options: Options) -> str:
    """The content of our own file. Pure."""
    lines = [f"    {key} {value}" for key, value in options]
    return "\n".join(
        ["# Made by `inn ssh-config --install`; changes are lost.", f"Host *{SUFFIX}", *lines, ""]
    )


def plan_arguments(options: Options) -> tuple[str, ...]:
    """The same options for the command line of `ssh`. Pure."""
    return tuple(word for key, value in options for word in ("-o", f"{key}={value}"))


def plan_removed(config: bytes) -> bytes:
    """The user's configuration without our lines; every other byte as it was. Pure."""
    kept: list[bytes] = []
    follows_mark = False
    for line in config.splitlines(keepends=True):
        is_mark = line.rstrip(b"\r\n") == _MARK
        is_ours = follows_mark and line.startswith(b"Include ") and _FILE_NAME.encode() in line
        if not is_mark and not is_ours:
            kept.append(line)
        follows_mark = is_mark
    return b"".join(kept)


def plan_installed(config: bytes, file: Path) -> bytes:
    """The user's configuration with our lines at its top. Pure.

    Further down they could be part of a `Host` block.
    """
    include = b"Include " + os.fsencode(_quoted(file))
    return _MARK + b"\n" + include + b"\n" + plan_removed(config)


@dataclass(frozen=True)
class Places:
    """The files in a home folder."""

    folder: Path

    @property
    def config(self) -> Path:
        """The user's configuration; where it is a link, what it leads to."""
        return Path(os.path.realpath(self.folder / "config"))

    @property
    def own(self) -> Path:
        """Our file."""
        return self.folder / _FILE_NAME


def places(home: Path) -> Places:
    """The files in this home folder."""
    return Places(home / ".ssh")


def own_program() -> tuple[str, ...]:
    """The argv that starts this `inn`, wherever it is called from."""
    return (sys.executable, "-m", "innkeeper")


def install(at: Places, content: str) -> bool:
    """Put our file and the two lines in place; False when nothing had to be changed.

    :raise HostError: a file cannot be read or written; the user's is untouched then.
    """
    make_folder(at.folder)
    changed = _replace(at.own, _read(at.own), content.encode())
    before = _read(at.config)
    return _replace(at.config, before, plan_installed(before or b"", at.own)) or changed


def remove(at: Places) -> bool:
    """Take both away; False when there was nothing.

    :raise HostError: as :func:`install`.
    """
    before = _read(at.config)
    changed = before is not None and _replace(at.config, before, plan_removed(before))
    with naming_errors(at.own, doing="remove", stage="ssh-config"):
        was_there = at.own.exists()
        at.own.unlink(missing_ok=True)
    return changed or was_there


def _read(path: Path) -> bytes | None:
    with naming_errors(path, doing="read", stage="ssh-config"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def _replace(path: Path, before: bytes | None, after: bytes) -> bool:
    """Write it whole, with the mode it had; False when it is so already."""
    if before == after:
        return False
    with naming_errors(path, doing="write", stage="ssh-config"):
        mode = path.stat().st_mode & 0o777 if before is not None else 0o600
        write_atomic(path, after, mode)
    return True

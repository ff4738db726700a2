# SPDX-License-Identifier: Apache-2.0
"""`inn policy watch`: the audit of a topology's guests as it is written."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import click
import msgspec

from innkeeper.keeper.logs import LogReader
from innkeeper.keeper.topologies import only_topology
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.topologies import load_stored
from innkeeper.system.follow import FolderWatch
from innkeeper.system.interrupt import interruptible

_LOOK_AGAIN_S = 1.0


@click.command()
@click.option("--no-follow", is_flag=True, help="Print what was decided so far, and end.")
@click.argument("name", required=False)
def watch(name: str | None, no_follow: bool) -> None:
    """Print each refusal between guests, and what rules with `log = true` allowed.

    One JSON object a line, with both machines, the port, the verdict, and the rule
    with its line in the topology file. Each side decides for itself, so that a
    stream that both allow is told twice, with the machine that tells in `by`.
    """
    layout = host_layout()
    topology = load_stored(layout, name or only_topology(layout)).parsed()
    with interruptible(), contextlib.closing(_Audits(layout, tuple(topology.members))) as audits:
        for line in audits.follow() if not no_follow else audits.present():
            if line:
                sys.stdout.write(line + "\n")
            else:
                sys.stdout.flush()


class _Audits:
    """The audits of several machines, read together."""

    def __init__(self, layout: Layout, names: tuple[str, ...]) -> None:
        self._folders = [layout.machine(name) for name in names]
        self._readers = {
            name: LogReader(folder.audit, "audit")
            for name, folder in zip(names, self._folders, strict=True)
        }

    def present(self) -> Iterator[str]:
        """What was not read yet, in the order of time."""
        found = sorted(
            (line.at, name, line.text)
            for name, reader in self._readers.items()
            for line in reader.lines()
        )
        for _, name, text in found:
            with contextlib.suppress(msgspec.DecodeError):
                yield msgspec.json.encode({"by": name, **msgspec.json.decode(text)}).decode()

    def follow(self) -> Iterator[str]:
        """All of it as it comes, "" before each wait."""
        with FolderWatch() as changes:
            for folder in self._folders:
                changes.add(folder.path)
            while True:
                yield from self.present()
                yield ""
                changes.wait(_LOOK_AGAIN_S, reader_of=1)
                changes.take()

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers.values():
            reader.close()

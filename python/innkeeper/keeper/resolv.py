# SPDX-License-Identifier: Apache-2.0
"""The guest's resolv.conf follows the host's for as long as the guest runs.

The name server that the guest knows is on the host and asks the host's own
servers, so it stays the same; what changes with the host is the search list.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from innkeeper.errors import InnError
from innkeeper.keeper.say import say
from innkeeper.system.follow import FolderWatch

_RESOLV = Path("/etc/resolv.conf")
# resolv.conf(5): what follows is the limit of old resolvers, and ours.
_DOMAINS_LIMIT = 6
_SIZE_LIMIT = 64 * 1024
_DOMAIN = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,252}")
# A program that writes the file in pieces is done by then.
_SETTLE_S = 0.2


def search_domains(text: str) -> tuple[str, ...]:
    """The search list of a resolv.conf; the last line of its kind counts."""
    found: tuple[str, ...] = ()
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if words[:1] in (["search"], ["domain"]):
            found = tuple(word for word in words[1:] if _DOMAIN.fullmatch(word))
    return found[:_DOMAINS_LIMIT]


def read_search_domains(path: Path = _RESOLV) -> tuple[str, ...]:
    """The host's search list; () where it has no such file."""
    try:
        with path.open("rb") as file:
            return search_domains(file.read(_SIZE_LIMIT).decode("utf-8", "replace"))
    except OSError:
        return ()


class ResolvFollower:
    """Tells the guest's agent of every change of the host's search list. Close it.

    :param nameserver: the one that the guest asks.
    :param domains: what the guest was told so far.
    """

    def __init__(
        self,
        agent_socket: Path,
        nameserver: str,
        domains: tuple[str, ...],
        *,
        path: Path = _RESOLV,
    ) -> None:
        self._agent_socket = agent_socket
        self._nameserver = nameserver
        self._told = domains
        self._path = path
        self._watch = FolderWatch()
        self._watch.add(path.parent)
        if path.is_symlink():
            self._watch.add(path.resolve().parent)
        self._changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._watch.fd, self._on_news)
        self._following = self._loop.create_task(self._follow())

    async def close(self) -> None:
        """Stop following. Idempotent."""
        if self._watch.fd >= 0:
            self._loop.remove_reader(self._watch.fd)
            self._watch.close()
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)

    def _on_news(self) -> None:
        names = {self._path.name, self._path.resolve().name}
        if any(path.name in names for path in self._watch.take()):
            self._changed.set()

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(_SETTLE_S)
            self._changed.clear()
            domains = read_search_domains(self._path)
            if domains == self._told:
                continue
            try:
                await asyncio.to_thread(self._tell, domains)
            except InnError as error:
                say(f"the guest's search list was not changed: {error.brief}")
            else:
                self._told = domains

    def _tell(self, domains: tuple[str, ...]) -> None:
        from innkeeper.agent.control import ControlClient

        with ControlClient(self._agent_socket) as agent:
            agent.set_resolv(nameservers=(self._nameserver,), search_domains=domains)

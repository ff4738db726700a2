# SPDX-License-Identifier: Apache-2.0
"""The host's side of one running guest's shares: their server, through all its lives.

::

    open() ── stand-in (QEMU's peer) ──┬─ server ─ killed ─> server ─> mounted anew
                                       │
    add(), remove() ── namespaces ─────┘── agent: mount, unmount

A guest that may get shares later has the stand-in alone: no server runs for it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress

import msgspec

from innkeeper.errors import GuestError, HostError, InnError, NameInUse, UnknownName, UsageError
from innkeeper.hypervisors.qemu.shares import share_descriptors, transport_word
from innkeeper.keeper.shares import check_folder
from innkeeper.model.share import Share, SharePlan, ShareReport
from innkeeper.registry.layout import GuestFolder
from innkeeper.shares.plan import share_word
from innkeeper.shares.serve import ShareServer, start_server
from innkeeper.shares.standin import StandIn
from innkeeper.shares.users import host_ids, plan_users, users_told
from innkeeper.system import share_sandbox
from innkeeper.system.process import Completed, run_tool
from innkeeper.system.sockets import stream_pair

# A server that ends so often, one life after the other, has a reason that stays.
_LIVES_MAXIMUM = 5
_CALM_S = 60.0
_CHANGE_LIMIT_S = 15.0
# What is lost is tried to be mounted anew after these times: what a program holds
# open of it keeps it from that. Then it is left to `inn share remount`.
_HEAL_DELAYS_S = (0.2, 0.5, 1, 2, 4, *(120 * (8,)))
# A server that hung up ends in this time; then it has said why.
_LAST_WORDS_S = 1.0


class ShareSide:
    """What belongs to one guest's shares.

    :param on_change: called with the plan as it is now, and what to tell of it.
    :param tell: called with a line for people.
    """

    def __init__(
        self,
        plan: SharePlan,
        folder: GuestFolder,
        *,
        on_change: Callable[[SharePlan, ShareReport], None],
        tell: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._on_change = on_change
        self._tell = tell
        self._server: ShareServer | None = None
        self._follower: asyncio.Task[None] | None = None
        self._starting: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._restarts = 0
        self._lives_in_a_row = 0
        self._fault = ""
        # One change at a time; a server that ended is replaced before the next.
        self._turn = asyncio.Lock()
        self._reachable = asyncio.Event()
        self._ours, self._theirs = stream_pair()
        self._stand_in: StandIn | None = None

    @property
    def descriptors(self) -> dict[str, int]:
        """For QEMU, by their names in its plan."""
        return {name: self._theirs.fileno() for name in share_descriptors(self._plan)}

    def open(self, stack: AsyncExitStack) -> None:
        """Begin: QEMU can be started then. `stack` ends it."""
        if self._plan.transport == "virtiofs":
            self._stand_in = StandIn(self._ours)
        stack.push_async_callback(self.close)
        if self._plan.shares or self._plan.whole_host:
            self._starting = asyncio.create_task(self._start())
            self._tasks.add(self._starting)

    async def ready(self) -> None:
        """Wait until the server serves, where there are shares.

        :raise HostError: it cannot.
        """
        # QEMU has its own by now.
        self._theirs.close()
        if self._starting is not None:
            await self._starting
        self._report()

    def agent_answers(self) -> None:
        """The guest is ready, or goes on."""
        self._reachable.set()

    def agent_pauses(self) -> None:
        """The guest is paused."""
        self._reachable.clear()

    async def close(self) -> None:
        """End everything. Idempotent."""
        for task in tuple(self._tasks):
            task.cancel()
            with suppress(asyncio.CancelledError, InnError):
                await task
        if self._stand_in is not None:
            await self._stand_in.close()
        self._ours.close()
        self._theirs.close()
        self._end_server()

    async def add(self, share: Share) -> None:
        """Mount a folder of the host in the guest; one that is there already is fine.

        :raise InnError: the folder is missing, the place is taken, or the guest cannot;
            nothing is changed then.
        """
        async with self._turn:
            for other in self._plan.shares:
                if other == share:
                    return
                if other.guest == share.guest:
                    raise NameInUse(
                        f"{other.host} is shared at {share.guest} already",
                        stage="shares",
                        fix="choose another place, or `inn share rm` that one first",
                    )
            check_folder(share)
            anew = self._change_users(share)
            if self._server is None:
                await self._start()
            added = await self._change("add", share_word(share, self._plan.users))
            if added.returncode != 0:
                raise HostError(
                    f"the folder {share.host} cannot be shared",
                    stage="shares",
                    evidence=added.error_lines(),
                )
            try:
                await self._attach((share,), anew=anew)
            except BaseException:
                await self._change("detach", share.key)
                raise
            self._set((*self._plan.shares, share))

    def _change_users(self, share: Share) -> bool:
        """See that the server can have a share with these users; True when it was ended for that.

        :raise InnError: the other shares do not let it.
        """
        users = plan_users((*self._plan.shares, share), host_ids())
        if users == self._plan.users:
            return False
        if self._plan.whole_host:
            raise UsageError(
                f"the share at {share.guest} has other users than the guest's root, and the "
                "same server",
                stage="shares",
                fix="leave uid=, gid=, id= and squash out, or give the share to the start",
            )
        self._plan = msgspec.structs.replace(self._plan, users=users)
        if self._server is None:
            return False
        # It serves no share: who it is can be changed by another one alone.
        if self._follower is not None:
            self._follower.cancel()
        self._end_server()
        return True

    async def remove(self, guest: str, *, force: bool, revoke: bool) -> bool:
        """Take a share away; True when the guest still holds something of it.

        :param force: also where programs of the guest use it.
        :param revoke: end those programs, and the server too where the guest still holds
            something; its agent need not answer.
        :raise UnknownName: there is none at this place.
        :raise GuestError: programs use it; it names them, and nothing is changed.
        """
        async with self._turn:
            share = self._find(guest)
            try:
                await asyncio.to_thread(self._detach, share, force=force, kill=revoke)
            except InnError as error:
                if not revoke:
                    raise
                self._tell(f"the guest did not unmount {guest}: {error.brief}")
            held = False
            if self._server is not None:
                taken = await self._change("remove", share.key)
                held = taken.returncode == share_sandbox.BUSY
                if held and not revoke:
                    await self._change("detach", share.key)
            self._set(tuple(other for other in self._plan.shares if other != share))
            if held and revoke:
                await self._renew()
            return held and not revoke

    async def remount(self) -> None:
        """Mount all shares anew, whoever uses them.

        :raise GuestError: programs hold on to what was before; it names them.
        """
        async with self._turn:
            if self._server is None and self._plan.shares:
                await self._start()
            await self._heal()

    def _find(self, guest: str) -> Share:
        for share in self._plan.shares:
            if share.guest == guest:
                return share
        have = tuple(share.guest for share in self._plan.shares)
        raise UnknownName("share at", guest, have, stage="shares")

    def _set(self, shares: tuple[Share, ...]) -> None:
        ordered = tuple(sorted(shares, key=lambda share: share.guest))
        self._plan = msgspec.structs.replace(self._plan, shares=ordered)
        self._report()

    def _report(self) -> None:
        plan = self._plan
        report = ShareReport(
            transport=plan.transport,
            reason=plan.reason,
            cache=plan.cache,
            shares=plan.shares,
            users=users_told(plan.users),
            server_pid=None if self._server is None else self._server.child.pid,
            restarts=self._restarts,
            fault=self._fault,
        )
        self._on_change(plan, report)

    async def _start(self) -> None:
        """Start a server and let it take over.

        :raise HostError: it ended, or cannot do what it must; it says why.
        """
        folder = self._folder
        path = folder.shares_port if self._stand_in is None else folder.shares_socket
        server = start_server(self._plan, path)
        try:
            exited = server.watch()
            try:
                # Over 9P, the guest itself connects.
                if self._stand_in is not None:
                    await self._stand_in.attach(server.take_connection())
            except HostError as error:
                await asyncio.wait({exited}, timeout=_LAST_WORDS_S)
                raise HostError(
                    "the share server cannot serve",
                    stage="shares",
                    evidence=server.evidence(),
                    fix="`inn doctor` tries it",
                ) from error
        except BaseException:
            server.end()
            raise
        self._server = server
        self._follower = asyncio.create_task(self._follow(server))
        self._tasks.add(self._follower)
        self._follower.add_done_callback(self._tasks.discard)

    async def _follow(self, server: ShareServer) -> None:
        """Replace a server that ended, and have the guest mount its shares anew."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        await server.watch()
        async with self._turn:
            evidence = "; ".join(server.evidence())
            self._end_server()
            self._tell(f"the share server ended: {evidence}")
            if loop.time() - begun > _CALM_S:
                self._lives_in_a_row = 0
            self._lives_in_a_row += 1
            self._restarts += 1
            self._fault = f"the share server ended: {evidence}"
            self._report()
            try:
                if self._lives_in_a_row > _LIVES_MAXIMUM:
                    raise HostError(f"the share server ended {_LIVES_MAXIMUM} times in a row")
                await self._start()
            except InnError as error:
                self._lose(error)
                return
        await self._heal_at_last()

    async def _heal_at_last(self) -> None:
        """Heal, now or when nobody holds on to what was lost any more."""
        for delay_s in _HEAL_DELAYS_S:
            try:
                async with self._turn:
                    if self._fault:
                        await self._heal()
            except InnError as error:
                self._lose(error)
            else:
                return
            await asyncio.sleep(delay_s)

    def _lose(self, error: InnError) -> None:
        """Tell of a loss, once."""
        fault = ": ".join((error.brief, *error.evidence[:1]))
        if fault != self._fault:
            self._fault = fault
            self._tell(f"shares are lost: {fault}")
            self._report()

    async def _renew(self) -> None:
        """Another server for the same shares."""
        if self._follower is not None:
            self._follower.cancel()
        self._end_server()
        self._fault = "the share server was ended, to take a share away"
        await self._start()
        await self._heal()

    async def _heal(self) -> None:
        """The guest's session with its server is over; begin another.

        :raise InnError: the guest cannot, or does not answer.
        """
        await self._reachable.wait()
        if self._plan.shares:
            await self._attach(self._plan.shares, anew=True)
        self._fault = ""
        self._tell("the guest's shares were mounted anew; what programs had open there is lost")
        self._report()

    def _end_server(self) -> None:
        if self._stand_in is not None:
            self._stand_in.detach()
        if self._server is not None:
            self._server.end()
            self._server = None

    async def _attach(self, shares: tuple[Share, ...], *, anew: bool = False) -> None:
        await asyncio.to_thread(self._agent_attach, shares, anew=anew)

    def _agent_attach(self, shares: tuple[Share, ...], *, anew: bool) -> None:
        # gRPC takes 12 MB of the keeper; guests whose shares stay as they are do not pay.
        from innkeeper.agent.shares import ShareClient

        with ShareClient(self._folder.agent) as agent:
            agent.attach_shares(transport_word(self._plan), shares, anew=anew)

    def _detach(self, share: Share, *, force: bool, kill: bool) -> None:
        from innkeeper.agent.shares import ShareClient

        with ShareClient(self._folder.agent) as agent:
            agent.detach_share(share, force=force, kill=kill)

    async def _change(self, verb: str, what: str) -> Completed:
        """Change what the server can see.

        :raise GuestError: there is no server.
        """
        if self._server is None:
            raise GuestError("the share server is gone", stage="shares", fix="`inn share remount`")
        words = (verb, str(self._server.child.pid), self._plan.root, what)
        argv = [sys.executable, "-I", "-S", share_sandbox.__file__, *words]
        return await asyncio.to_thread(
            run_tool, argv, stage="shares", timeout_s=_CHANGE_LIMIT_S, check=False
        )

# SPDX-License-Identifier: Apache-2.0
"""Whom a guest's users are on the host, by what the host can do.

::

    shares, HostIds ──plan_users()──> ServerUsers ──users_word(), map_words()──> the sandbox
    host_ids()                                     (pure)

Root's server knows all users, and each share's mount has a map of its own. A user's
server has a user namespace, whose map counts for all its shares. The server itself is
one of the guest's users, since the kernel lets nobody rename who is not in a map: the
guest's root, or with `squash` the one that all are.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable
from pathlib import Path

import msgspec

from innkeeper.errors import HostError, UsageError
from innkeeper.model import idmap
from innkeeper.model.idmap import ID_END, IdRange, Line
from innkeeper.model.share import ServerUsers, Share, users_text
from innkeeper.system.process import find_program

_EVERYBODY = (0, 0, ID_END)
_STAGE = "shares"


class HostIds(msgspec.Struct, frozen=True, kw_only=True):
    """Who shares, and which other ids this host gives him.

    :ivar subuids: first id and how many, of each of his lines in /etc/subuid.
    :ivar tools: the folder of newuidmap and newgidmap; "" where they are missing.
    """

    uid: int
    gid: int
    user: str = ""
    subuids: tuple[tuple[int, int], ...] = ()
    subgids: tuple[tuple[int, int], ...] = ()
    tools: str = ""

    @property
    def has_others(self) -> bool:
        """There are ids for more users than himself."""
        return bool(self.subuids and self.subgids and self.tools)


def host_ids() -> HostIds:
    """Who this process is, and what is his."""
    uid = os.geteuid()
    if uid == 0:
        return HostIds(uid=0, gid=os.getegid(), user="root")
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    subuids, subgids = (
        idmap.subordinate_ranges(_read(path), user, uid) for path in ("/etc/subuid", "/etc/subgid")
    )
    paths = [find_program(name) for name in ("newuidmap", "newgidmap")]
    folders = {str(Path(path).parent) if path else "" for path in paths}
    tools = folders.pop() if len(folders) == 1 else ""
    gid = os.getegid()
    return HostIds(uid=uid, gid=gid, user=user, subuids=subuids, subgids=subgids, tools=tools)


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def plan_users(shares: tuple[Share, ...], ids: HostIds) -> ServerUsers:
    """Who the server of these shares is. Pure.

    :raise UsageError: the shares of one guest contradict each other.
    :raise HostError: the host has not the ids.
    """
    if ids.uid == 0:
        return _of_root(shares)
    first = shares[0] if shares else None
    for share in shares:
        assert first is not None
        if users_text(share) != users_text(first):
            raise UsageError(
                f"the shares at {first.guest} and {share.guest} have different maps of users",
                stage=_STAGE,
                fix="a user's shares of one guest have one map: write the same uid=, gid=, id= "
                "and squash at each; root may give each its own",
            )
    if first is not None and first.squash:
        uid, gid = (_one(ranges) for ranges in (first.uid_map, first.gid_map))
        for kind, line, own in (("uid", uid, ids.uid), ("gid", gid, ids.gid)):
            if line.host not in (None, own):
                raise _not_his(kind, (line.guest, line.host or 0, 1), ids)
        return ServerUsers(
            own_user=True,
            uid_map=((uid.guest, ids.uid, 1),),
            gid_map=((gid.guest, ids.gid, 1),),
            uid=uid.guest,
            gid=gid.guest,
            squash=True,
        )
    maps = (first.uid_map, first.gid_map) if first is not None else ((), ())
    uids = _of_user("uid", maps[0], ids.uid, ids.subuids, ids)
    gids = _of_user("gid", maps[1], ids.gid, ids.subgids, ids)
    is_alone = all(sum(line[2] for line in each) == 1 for each in (uids, gids))
    tools = "" if is_alone else ids.tools
    # One who asked for nothing has less where newuidmap fails, as on a host without it.
    return ServerUsers(
        own_user=True, uid_map=uids, gid_map=gids, tools=tools, must=any(maps) and bool(tools)
    )


def _of_root(shares: tuple[Share, ...]) -> ServerUsers:
    for share in shares:
        map_words(share)
    squashed = [share for share in shares if share.squash]
    if not squashed:
        return ServerUsers()
    who = {(_one(share.uid_map).guest, _one(share.gid_map).guest) for share in squashed}
    if len(squashed) < len(shares) or len(who) > 1:
        names = ", ".join(f"{share.guest} ({users_text(share) or 'no map'})" for share in shares)
        raise UsageError(
            f"the shares of one guest do not agree on who all of its users are: {names}",
            stage=_STAGE,
            fix="write squash at each, with the same id of the guest, or at none",
        )
    uid, gid = who.pop()
    return ServerUsers(uid=uid, gid=gid, squash=True)


def _one(ranges: tuple[IdRange, ...]) -> IdRange:
    return ranges[0] if ranges else IdRange(guest=0)


def _of_user(
    kind: str,
    ranges: tuple[IdRange, ...],
    own: int,
    spare: tuple[tuple[int, int], ...],
    ids: HostIds,
) -> tuple[Line, ...]:
    """A namespace's map: what was asked for, and all others from the spare ids."""
    lines = idmap.lines(ranges, own)
    _refuse_two(kind, lines)
    for line in lines:
        _, host, count = line
        is_spare = any(first <= host and host + count <= first + number for first, number in spare)
        if not (host == own and count == 1) and not is_spare:
            raise _not_his(kind, line, ids)
    if not any(host == own for _, host, _ in lines):
        lines = _with_root(kind, lines, own)
    if ids.has_others:
        return idmap.fill(lines, spare)
    if lines != ((0, own, 1),):
        lacks = f"/etc/subuid and /etc/subgid have no lines for {ids.user}"
        raise HostError(
            f"this map takes ids beside {ids.user}'s own, for the guest's root or others",
            stage=_STAGE,
            evidence=(lacks if ids.tools else "newuidmap and newgidmap are not installed",),
            fix="sudo apt-get install uidmap; sudo usermod --add-subuids 100000-165535 "
            f"--add-subgids 100000-165535 {ids.user}; or add squash, which makes all of the "
            f"guest's users {ids.user}",
        )
    return lines


def _not_his(kind: str, line: Line, ids: HostIds) -> HostError:
    _, host, count = line
    last = f"-{host + count - 1}" if count > 1 else ""
    spare = ids.subuids if kind == "uid" else ids.subgids
    own = ids.uid if kind == "uid" else ids.gid
    others = "".join(f", {first}-{first + number - 1}" for first, number in spare)
    return HostError(
        f"the {kind} {host}{last} of the host is not {ids.user}'s to share with",
        stage=_STAGE,
        evidence=(f"{ids.user} has {own}{others} (/etc/sub{kind})",),
        fix="take one of those, leave the host's id out, which is you, or do it as root",
    )


def _refuse_two(kind: str, lines: tuple[Line, ...]) -> None:
    """Refuse a host's id that two of the guest's are, now that "who shares" is a number."""
    resolved = tuple(IdRange(guest=guest, host=host, count=count) for guest, host, count in lines)
    idmap.check_ranges(resolved, kind)


def _with_root(kind: str, lines: tuple[Line, ...], host: int) -> tuple[Line, ...]:
    """A map in which the guest's root is somebody.

    :raise UsageError: whom he would be is another already.
    """
    if any(guest == 0 for guest, _, _ in lines):
        return lines
    if any(first <= host < first + count for _, first, count in lines):
        raise UsageError(
            f"the guest's {kind} 0 is nobody: {kind} {host} of the host is another already",
            stage=_STAGE,
            fix=f"say who the guest's root is, as {kind}=0-HOST; its share server is he",
        )
    return tuple(sorted((*lines, (0, host, 1))))


def map_words(share: Share) -> str:
    """A share's own map, as root's sandbox takes it; "" where it has none. Pure.

    :raise UsageError: it has no place for the guest's root.
    """
    if not share.maps:
        return ""
    words = []
    for kind, ranges in (("uid", share.uid_map), ("gid", share.gid_map)):
        if share.squash:
            lines = idmap.lines((_one(ranges),), 0)
        elif ranges:
            lines = idmap.lines(ranges, 0)
            _refuse_two(kind, lines)
            lines = _with_root(kind, lines, 0)
        else:
            lines = (_EVERYBODY,)
        # A mount's map has the file system's ids inside.
        words.append(f";{kind}s={_text((host, guest, count) for guest, host, count in lines)}")
    return "".join(words)


def _text(lines: Iterable[Line]) -> str:
    return "+".join("-".join(map(str, line)) for line in lines)


def users_word(users: ServerUsers) -> str:
    """Who the server is, as the sandbox takes it. Pure."""
    words = ["user" if users.own_user else "host", f"uid={users.uid}", f"gid={users.gid}"]
    if users.own_user:
        words += [f"uids={_text(users.uid_map)}", f"gids={_text(users.gid_map)}"]
    words += ["squash"] if users.squash else []
    words += [f"tools={users.tools}"] if users.tools else []
    words += ["must"] if users.must else []
    return ";".join(words)


def users_told(users: ServerUsers) -> str:
    """The map of a user's server, for people; "" where each share has its own. Pure."""
    if not users.own_user:
        return ""
    parts = []
    for kind, lines in (("uid", users.uid_map), ("gid", users.gid_map)):
        each = [f"{_span(guest, count)} is {_span(host, count)}" for guest, host, count in lines]
        parts.append(f"the guest's {kind} {', '.join(each)}")
    others = "all others the same" if users.squash else "others are nobody"
    return f"{'; '.join(parts)}; {others}"


def _span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first}-{first + count - 1}"

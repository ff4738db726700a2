# SPDX-License-Identifier: Apache-2.0
"""A share: a folder of the host that a guest sees; and how a guest's shares are served."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from innkeeper.errors import UnknownName, UsageError
from innkeeper.model.idmap import IdRange, Line, check_ranges, parse_range

ShareTransport = Literal["virtiofs", "9p"]
ShareTransportChoice = Literal["auto", "virtiofs", "9p"]
ShareCache = Literal["never", "auto", "always"]

# By this name the guest finds its shares (virtio 1.2, 5.11.4: at most 36 bytes).
TAG = "inn-shares"

# The guest's drivers for each transport, in the order in which they are loaded.
TRANSPORT_DRIVERS: dict[ShareTransport, tuple[str, ...]] = {
    "virtiofs": ("virtiofs",),
    "9p": ("9pnet_fd", "9p"),
}
SHARE_DRIVERS = tuple(name for names in TRANSPORT_DRIVERS.values() for name in names)

# Where the guest finds them over 9P: Crostini's first port of its 9P servers.
NINEP_PORT = 16384

# The host's root among what is served; no key of a share looks like it.
ROOT_SHARE = "root"

# Longer ones do not fit on a kernel command line with others.
_GUEST_PATH_MAXIMUM = 512
_FIX = "write it as /host/folder:/guest/folder, with :ro at the end for read-only"
_OPTIONS = ("ro", "rw", "uid", "gid", "id", "squash")


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The host's folder `host` at the guest's `guest`.

    :ivar host: absolute.
    :ivar guest: absolute, without `.` and `..`.
    :ivar read_only: enforced on the host's side.
    :ivar uid_map: whom the guest's users are on the host; () leaves that to the host.
    :ivar gid_map: the same of groups.
    :ivar squash: all users and groups of the guest are the one that the maps tell of, or
        else who shares.
    """

    host: str
    guest: str
    read_only: bool = False
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()
    squash: bool = False

    def __post_init__(self) -> None:
        for kind, ranges in (("uid", self.uid_map), ("gid", self.gid_map)):
            check_ranges(ranges, kind)
            if self.squash and (len(ranges) > 1 or any(one.count > 1 for one in ranges)):
                raise UsageError(
                    f"squash makes all of the guest's {kind}s one, and {users_text(self)} tells "
                    "of several",
                    fix="write one, as id=1000-1234,squash, or leave squash out",
                )

    def __str__(self) -> str:
        words = ",".join(("ro",) * self.read_only + ((users_text(self),) if self.maps else ()))
        return f"{self.host}:{self.guest}{f':{words}' if words else ''}"

    @property
    def maps(self) -> bool:
        """Somebody said who the guest's users are on the host."""
        return bool(self.uid_map or self.gid_map or self.squash)

    @property
    def key(self) -> str:
        """The share's name between host and guest: one for each place in the guest."""
        return hashlib.sha256(self.guest.encode()).hexdigest()[:16]


class ServerFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A share server.

    :ivar flavour: "c" is the virtiofsd of QEMU up to 7.2, "rust" the later one, "9p" ours.
    """

    path: str
    flavour: Literal["c", "rust", "9p"]
    version: str


class ServerUsers(msgspec.Struct, frozen=True, kw_only=True):
    """Who a share server is, and whom the guest's users are to it.

    :ivar own_user: it runs in a user namespace of its own.
    :ivar uid_map: that namespace's, with the guest's ids inside; so is `gid_map`. More
        than one id takes newuidmap(1) and newgidmap(1).
    :ivar uid: the server's own, inside; so is `gid`.
    :ivar squash: it stays who it is, whoever asks.
    :ivar tools: the folder of newuidmap and newgidmap, "" where the maps need none.
    :ivar must: nothing less than these maps will do.
    """

    own_user: bool = False
    uid_map: tuple[Line, ...] = ()
    gid_map: tuple[Line, ...] = ()
    uid: int = 0
    gid: int = 0
    squash: bool = False
    tools: str = ""
    must: bool = False

    @property
    def gives_away(self) -> bool:
        """What a user of the guest makes is that user's."""
        return not self.squash and (not self.own_user or bool(self.tools))


class SharePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How the shares of one guest are served.

    :ivar server: the server's program and arguments, with `<fd>` for the listening
        socket that it inherits and `<root>` for what depends on `users`; `root` is all
        it sees.
    :ivar root: the folder below which each share is mounted under its key, in the
        server's namespaces alone.
    :ivar users: who the server is; in a user namespace where that is no root.
    :ivar reason: why this transport and this server, for people.
    :ivar fallback: it is not the first choice, which its user should know.
    :ivar whole_host: the host's root is served beside the shares, as `ROOT_SHARE`.
    """

    transport: ShareTransport
    server: tuple[str, ...]
    root: str
    shares: tuple[Share, ...]
    users: ServerUsers
    cache: ShareCache
    reason: str
    fallback: bool = False
    whole_host: bool = False


class ShareReport(msgspec.Struct, frozen=True, kw_only=True):
    """The shares of a running guest, as its keeper tells of them.

    :ivar server_pid: None while no server is needed, or it is lost.
    :ivar users: whom the guest's users are on the host, for people; "" where each share
        says it itself.
    :ivar restarts: how often one ended and was replaced.
    :ivar fault: what was lost and could not be healed, for people; "" where all is well.
    """

    transport: ShareTransport
    reason: str
    cache: ShareCache
    shares: tuple[Share, ...]
    users: str = ""
    server_pid: int | None = None
    restarts: int = 0
    fault: str = ""


def parse_share(text: str) -> Share:
    """A share as "HOST:GUEST[:OPTION[,OPTION]...]"; HOST may hold colons, GUEST may not.

    :raise UsageError: it is none.
    """
    rest, options = text, ""
    head, _, tail = text.rpartition(":")
    # A place in the guest begins with a slash, and no option does.
    if ":/" in head and not tail.startswith("/"):
        rest, options = head, tail
    host, _, guest = rest.rpartition(":")
    if not host.startswith("/"):
        raise UsageError(f"{text!r} is not a share: its host folder is not absolute", fix=_FIX)
    made = Share(host=host, guest=check_guest_path(guest))
    return _with_options(made, options) if rest != text else made


def _with_options(share: Share, options: str) -> Share:
    found: dict[str, list[str]] = {}
    for option in options.split(","):
        name, is_value, value = option.partition("=")
        if name not in _OPTIONS or bool(is_value) != (name in ("uid", "gid", "id")):
            raise UnknownName("option of a share", option, _OPTIONS)
        found.setdefault(name, []).append(value)
    if "ro" in found and "rw" in found:
        raise UsageError(f"the share {options!r} is both ro and rw", fix="leave one out")
    both = found.get("id", [])
    return make_share(
        share.host,
        share.guest,
        read_only="ro" in found,
        uid_map=(*found.get("uid", []), *both),
        gid_map=(*found.get("gid", []), *both),
        squash="squash" in found,
    )


def make_share(
    host: str,
    guest: str,
    *,
    read_only: bool = False,
    uid_map: Sequence[str] = (),
    gid_map: Sequence[str] = (),
    squash: bool = False,
) -> Share:
    """A share with its maps as text (:mod:`innkeeper.model.idmap`).

    :raise UsageError: something of it cannot be.
    """
    return Share(
        host=host,
        guest=check_guest_path(guest),
        read_only=read_only,
        uid_map=tuple(map(parse_range, uid_map)),
        gid_map=tuple(map(parse_range, gid_map)),
        squash=squash,
    )


def users_text(share: Share) -> str:
    """The options of a share that say who its users are; "" where none does."""
    if share.uid_map == share.gid_map:
        words = [f"id={one}" for one in share.uid_map]
    else:
        words = [f"uid={one}" for one in share.uid_map]
        words += [f"gid={one}" for one in share.gid_map]
    return ",".join((*words, *(("squash",) if share.squash else ())))


def anchor_share(text: str, folder: str) -> str:
    """The text of a share whose host folder may be relative to `folder`, with it absolute."""
    return text if text.startswith("/") else f"{folder.rstrip('/')}/{text}"


def check_guest_path(guest: str) -> str:
    """The path itself, normal, if a share may be mounted there.

    :raise UsageError: it may not.
    """
    path = PurePosixPath(guest)
    # It stands between quotes on the kernel command line.
    awkward = '"' in guest or not guest.isprintable()
    if not path.is_absolute() or ".." in path.parts or awkward or len(guest) > _GUEST_PATH_MAXIMUM:
        raise UsageError(f"{guest!r} is not a place for a share in the guest", fix=_FIX)
    if path.parts[1:2] in ((), ("proc",), ("sys",), ("dev",)):
        raise UsageError(
            f"a share cannot be mounted at {guest!r}", fix="choose a folder of its own"
        )
    # PurePosixPath keeps two leading slashes, as POSIX allows.
    return "/" + "/".join(path.parts[1:])


def check_shares(shares: tuple[Share, ...]) -> None:
    """Refuse two shares at the same place.

    :raise UsageError: there are such.
    """
    places: dict[str, Share] = {}
    for share in shares:
        other = places.setdefault(share.guest, share)
        if other is not share:
            raise UsageError(
                f"two shares at {share.guest}: {other.host} and {share.host}",
                fix="give each a place of its own",
            )

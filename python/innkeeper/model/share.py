# SPDX-License-Identifier: Apache-2.0
"""A share: a folder of the host that a guest sees; and how a guest's shares are served."""

from __future__ import annotations

import hashlib
from pathlib import PurePosixPath
from typing import Literal

import msgspec

from innkeeper.errors import UsageError

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


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The host's folder `host` at the guest's `guest`.

    :ivar host: absolute.
    :ivar guest: absolute, without `.` and `..`.
    :ivar read_only: enforced on the host's side.
    """

    host: str
    guest: str
    read_only: bool = False

    def __str__(self) -> str:
        return f"{self.host}:{self.guest}{':ro' if self.read_only else ''}"

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


class SharePlan(msgspec.Struct, frozen=True, kw_only=True):
    """How the shares of one guest are served.

    :ivar server: the server's program and arguments, with `<fd>` for the listening
        socket that it inherits; `root` is all it sees.
    :ivar root: the folder below which each share is mounted under its key, in the
        server's namespaces alone.
    :ivar own_user: the server runs in a user namespace, where the user is root.
    :ivar reason: why this transport and this server, for people.
    :ivar fallback: it is not the first choice, which its user should know.
    :ivar whole_host: the host's root is served beside the shares, as `ROOT_SHARE`.
    """

    transport: ShareTransport
    server: tuple[str, ...]
    root: str
    shares: tuple[Share, ...]
    own_user: bool
    cache: ShareCache
    reason: str
    fallback: bool = False
    whole_host: bool = False


class ShareReport(msgspec.Struct, frozen=True, kw_only=True):
    """The shares of a running guest, as its keeper tells of them.

    :ivar server_pid: None while no server is needed, or it is lost.
    :ivar restarts: how often one ended and was replaced.
    :ivar fault: what was lost and could not be healed, for people; "" where all is well.
    """

    transport: ShareTransport
    reason: str
    cache: ShareCache
    shares: tuple[Share, ...]
    server_pid: int | None = None
    restarts: int = 0
    fault: str = ""


def parse_share(text: str) -> Share:
    """A share as "HOST:GUEST[:ro|:rw]"; HOST may hold colons, GUEST may not.

    :raise UsageError: it is none.
    """
    rest, mode = text, ""
    head, _, tail = text.rpartition(":")
    if tail in ("ro", "rw"):
        rest, mode = head, tail
    host, _, guest = rest.rpartition(":")
    if not host.startswith("/"):
        raise UsageError(f"{text!r} is not a share: its host folder is not absolute", fix=_FIX)
    return Share(host=host, guest=check_guest_path(guest), read_only=mode == "ro")


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

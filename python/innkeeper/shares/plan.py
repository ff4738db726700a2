# SPDX-License-Identifier: Apache-2.0
"""From shares and what a host has to the server's arguments. Pure: values in, values out.

::

    what the host has ──choose_transport()──> virtiofs, 9p, or why neither
                                                  │
    shares, root folder ───plan_server()──────────┴─> SharePlan
                                                         │
    interpreter, mounts ───────────────sandbox_argv()────┴─> what is started
"""

from __future__ import annotations

import msgspec

from innkeeper.errors import HostError, InnError
from innkeeper.model.host import QemuFacts
from innkeeper.model.share import ServerFacts, Share, ShareCache, SharePlan, ShareTransport
from innkeeper.system.share_sandbox import VIEW

# The C server's words for what the guest may keep in its own cache.
_C_CACHE: dict[ShareCache, str] = {"never": "none", "auto": "auto", "always": "always"}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How shares get into a guest.

    :ivar reason: why, for people.
    """

    transport: ShareTransport
    server: ServerFacts
    reason: str


def choose_transport(qemu: QemuFacts, virtiofsd: ServerFacts | InnError) -> Choice:
    """The best transport that host and guest can do.

    :param virtiofsd: the installed one, or why there is none.
    :raise InnError: there is none; it says what is missing, and the fix.
    """
    if isinstance(virtiofsd, InnError):
        raise virtiofsd
    if not any(device.startswith("vhost-user-fs") for device in qemu.devices):
        raise HostError(
            f"QEMU {qemu.version_text} at {qemu.path} has no vhost-user-fs device",
            stage="shares",
            fix="install Debian's qemu-system-x86, or name another in INN_QEMU",
        )
    kind = {"c": "QEMU's own (C)", "rust": "Rust"}[virtiofsd.flavour]
    return Choice(
        transport="virtiofs",
        server=virtiofsd,
        reason=f"virtiofs by virtiofsd {virtiofsd.version}, {kind}",
    )


def plan_server(
    choice: Choice, shares: tuple[Share, ...], *, root: str, cache: ShareCache, uid: int
) -> SharePlan:
    """How the shares of one guest are served.

    :param root: an empty folder of the guest's own.
    :param uid: whose process the server will be; only root's needs no user namespace.
    """
    return SharePlan(
        transport=choice.transport,
        server=server_argv(choice.server, folder=f"{root}/{VIEW}", cache=cache),
        root=root,
        # A place inside another one can only be there once the other is.
        shares=tuple(sorted(shares, key=lambda share: share.guest)),
        own_user=uid != 0,
        cache=cache,
        reason=choice.reason,
    )


def server_argv(server: ServerFacts, *, folder: str, cache: ShareCache) -> tuple[str, ...]:
    """A virtiofsd that serves `folder` on the inherited listening socket `<fd>`.

    It changes its root to `folder`: the namespaces are ours already, and its own sandbox
    of namespaces needs rights that a user has not. Its seccomp filter is on unless told.
    """
    if server.flavour == "c":
        options = (f"source={folder}", "sandbox=chroot", "announce_submounts")
        words = (*options, f"cache={_C_CACHE[cache]}")
        return (server.path, "-f", "--fd=<fd>", *(part for word in words for part in ("-o", word)))
    return (
        server.path,
        "--fd=<fd>",
        "--shared-dir",
        folder,
        "--sandbox",
        "chroot",
        "--announce-submounts",
        "--cache",
        cache,
    )


def sandbox_argv(plan: SharePlan, *, python: str, program: str, fd: int) -> list[str]:
    """What is started: the program that makes the namespaces and becomes the server.

    :param program: the path of `innkeeper.system.share_sandbox`.
    :param fd: the listening socket's descriptor.
    """
    server = (part.replace("<fd>", str(fd)) for part in plan.server)
    mapping = "user" if plan.own_user else "host"
    shares = (share_word(share) for share in plan.shares)
    return [python, "-I", "-S", program, "serve", plan.root, mapping, *shares, "--", *server]


def share_word(share: Share) -> str:
    """A share as the sandbox program takes it: KEY=MODE=FOLDER."""
    return f"{share.key}={'ro' if share.read_only else 'rw'}={share.host}"

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
from innkeeper.model.image import Image
from innkeeper.model.share import (
    ROOT_SHARE,
    TRANSPORT_DRIVERS,
    ServerFacts,
    ServerUsers,
    Share,
    ShareCache,
    SharePlan,
    ShareTransport,
    ShareTransportChoice,
)
from innkeeper.shares.users import map_words, users_word
from innkeeper.system.share_sandbox import VIEW

_NO_DRIVER_FIX = {
    "virtiofs": "take a kernel with virtiofs (CONFIG_VIRTIO_FS), as Debian's have it",
    "9p": "take a kernel with 9p (CONFIG_9P_FS and CONFIG_NET_9P_FD): Debian's linux-image-amd64 "
    "has it, its cloud kernels have not",
}

# The C server's words for what the guest may keep in its own cache.
_C_CACHE: dict[ShareCache, str] = {"never": "none", "auto": "auto", "always": "always"}


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """How shares get into a guest.

    :ivar reason: why, for people.
    :ivar fallback: it is not the first choice.
    """

    transport: ShareTransport
    server: ServerFacts
    reason: str
    fallback: bool = False


def choose_transport(
    qemu: QemuFacts,
    image: Image,
    virtiofsd: ServerFacts | InnError,
    ninep: ServerFacts | InnError,
    *,
    wish: ShareTransportChoice = "auto",
) -> Choice:
    """The best transport that host and guest can do: virtiofs, else 9p.

    :param virtiofsd: the installed one, or why there is none; so is `ninep`.
    :param wish: nothing else will do, unless it is "auto".
    :raise InnError: there is none; it says what is missing, and the fix.
    """
    if wish == "9p":
        return _choose_ninep(image, ninep)
    try:
        return _choose_virtiofs(qemu, image, virtiofsd)
    except InnError as error:
        if wish == "virtiofs":
            raise
        try:
            choice = _choose_ninep(image, ninep)
        except InnError:
            # What is to be mended is the first choice.
            raise error from None
        reason = f"{choice.reason}, because {error.brief}"
        return msgspec.structs.replace(choice, reason=reason, fallback=True)


def check_drivers(image: Image, transport: ShareTransport) -> None:
    """See that a guest's kernel has the drivers for a transport, as far as that is known.

    :raise HostError: it has not.
    """
    if not set(TRANSPORT_DRIVERS[transport]).isdisjoint(image.lacks):
        raise HostError(
            f"the guest's kernel {image.kernel_release} has no driver for {transport}",
            stage="shares",
            fix=_NO_DRIVER_FIX[transport],
        )


def check_notify(choice: Choice, shares: tuple[Share, ...]) -> None:
    """See that the guest's watchers of these shares can be woken.

    :raise HostError: they cannot.
    """
    if choice.transport == "9p":
        return
    for share in shares:
        if share.read_only:
            raise HostError(
                f"watchers of {share.guest} cannot be woken over virtiofs: it is read-only",
                stage="shares",
                fix="take --share-transport 9p, share it writable, or leave --notify out",
            )


def check_device(qemu: QemuFacts) -> None:
    """See that QEMU has a device for virtiofs.

    :raise HostError: it has not.
    """
    if not any(device.startswith("vhost-user-fs") for device in qemu.devices):
        raise HostError(
            f"QEMU {qemu.version_text} at {qemu.path} has no vhost-user-fs device",
            stage="shares",
            fix="install Debian's qemu-system-x86, or name another in INN_QEMU",
        )


def _choose_ninep(image: Image, server: ServerFacts | InnError) -> Choice:
    if isinstance(server, InnError):
        raise server
    check_drivers(image, "9p")
    return Choice(transport="9p", server=server, reason="9p over vsock")


def _choose_virtiofs(qemu: QemuFacts, image: Image, virtiofsd: ServerFacts | InnError) -> Choice:
    if isinstance(virtiofsd, InnError):
        raise virtiofsd
    check_drivers(image, "virtiofs")
    check_device(qemu)
    kind = "QEMU's own (C)" if virtiofsd.flavour == "c" else "Rust"
    return Choice(
        transport="virtiofs",
        server=virtiofsd,
        reason=f"virtiofs by virtiofsd {virtiofsd.version}, {kind}",
    )


def plan_server(
    choice: Choice,
    shares: tuple[Share, ...],
    *,
    root: str,
    cache: ShareCache,
    users: ServerUsers,
    whole_host: bool = False,
) -> SharePlan:
    """How the shares of one guest are served.

    :param root: an empty folder of the guest's own.
    :param users: who the server will be (:mod:`innkeeper.shares.users`).
    :param whole_host: the guest's root is the host's.
    """
    # Mounts that are announced are mounts in the guest too, which an overlay cannot enter.
    server = server_argv(
        choice.server,
        folder=f"{root}/{VIEW}",
        cache=cache,
        announce=not whole_host,
    )
    return SharePlan(
        transport=choice.transport,
        server=server,
        root=root,
        # A place inside another one can only be there once the other is.
        shares=tuple(sorted(shares, key=lambda share: share.guest)),
        users=users,
        cache=cache,
        reason=choice.reason,
        fallback=choice.fallback,
        whole_host=whole_host,
    )


def server_argv(
    server: ServerFacts,
    *,
    folder: str,
    cache: ShareCache,
    announce: bool = True,
) -> tuple[str, ...]:
    """A server of `folder` on the inherited listening socket `<fd>`.

    `<root>` is a word for a server that gives what a user of the guest makes to that
    user; virtiofsd tries that in any case.

    It changes its root to `folder`: the namespaces are ours already, and its own sandbox
    of namespaces needs rights that a user has not. Its seccomp filter is on unless told.

    :param announce: what is mounted below `folder` is so in the guest too, with its own
        inode numbers.
    """
    if server.flavour == "9p":
        return (server.path, "<fd>", folder, "<root>")
    if server.flavour == "c":
        # Without a pool, requests that came together are answered last to first.
        start = (server.path, "-f", "--fd=<fd>", "--thread-pool-size=1")
        mounts = ("announce_submounts",) if announce else ()
        options = (f"source={folder}", "sandbox=chroot", *mounts, "log_level=warn")
        words = (*options, f"cache={_C_CACHE[cache]}")
        return (*start, *(part for word in words for part in ("-o", word)))
    return (
        server.path,
        "--fd=<fd>",
        "--shared-dir",
        folder,
        "--sandbox",
        "chroot",
        *(("--announce-submounts",) if announce else ()),
        "--cache",
        cache,
    )


def sandbox_argv(plan: SharePlan, *, python: str, program: str, fd: int) -> list[str]:
    """What is started: the program that makes the namespaces and becomes the server.

    :param program: the path of `innkeeper.system.share_sandbox`.
    :param fd: the listening socket's descriptor.
    """
    words = {"<root>": "root" if plan.users.gives_away else ""}
    server = [words.get(part, part.replace("<fd>", str(fd))) for part in plan.server]
    # First: what is mounted for the others would be seen through it.
    whole = (f"{ROOT_SHARE}=root=/",) if plan.whole_host else ()
    shares = (*whole, *(share_word(share, plan.users) for share in plan.shares))
    who = users_word(plan.users)
    return [
        python,
        "-I",
        "-S",
        program,
        "serve",
        plan.root,
        who,
        *shares,
        "--",
        *filter(None, server),
    ]


def share_word(share: Share, users: ServerUsers) -> str:
    """A share as the sandbox program takes it: KEY=MODE=FOLDER."""
    # A user's map is the server's namespace's; only root's is the mount's.
    maps = "" if users.own_user else map_words(share)
    return f"{share.key}={'ro' if share.read_only else 'rw'}{maps}={share.host}"

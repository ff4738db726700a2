# SPDX-License-Identifier: Apache-2.0
"""A guest's shares: how they will be served, found out before the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from innkeeper.errors import HostError, InnError
from innkeeper.model.host import QemuFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine
from innkeeper.model.share import ServerFacts, ServerUsers, Share, SharePlan
from innkeeper.registry.layout import Layout


def prepare_shares(
    machine: Machine,
    image: Image,
    qemu: QemuFacts,
    layout: Layout,
    *,
    report: Callable[[str], None],
    stays: bool,
) -> SharePlan | None:
    """How the shares of a machine will be served; None where it has none and will get none.

    :param report: is told where the transport is not the first choice.
    :param stays: shares may be added while the guest runs, so it is prepared for them
        where this host can serve any.
    :raise InnError: a shared folder is missing, or host or guest cannot do it.
    """
    whole_host = machine.root == "host"
    if not machine.shares and not whole_host and not stays:
        return None
    from innkeeper.shares.plan import check_notify, choose_transport, plan_server
    from innkeeper.shares.servers import ninep_facts, virtiofsd_facts
    from innkeeper.shares.users import host_ids, plan_users

    for share in machine.shares:
        check_folder(share)
    virtiofsd: ServerFacts | InnError
    try:
        virtiofsd = virtiofsd_facts(layout.cache)
    except InnError as error:
        virtiofsd = error
    ninep: ServerFacts | InnError
    try:
        ninep = ninep_facts()
    except InnError as error:
        ninep = error
    try:
        choice = choose_transport(qemu, image, virtiofsd, ninep, wish=machine.share_transport)
    except InnError:
        if machine.shares or whole_host:
            raise
        return None
    users = plan_users(machine.shares, host_ids())
    check_maps(users, machine.shares)
    if machine.notify:
        check_notify(choice, machine.shares)
    if choice.fallback and machine.shares:
        report(f"shares by {choice.reason}")
    return plan_server(
        choice,
        machine.shares,
        root=str(layout.guest(machine.name).shares),
        cache=machine.share_cache,
        users=users,
        whole_host=whole_host,
    )


def check_maps(users: ServerUsers, shares: tuple[Share, ...]) -> None:
    """Refuse maps of users that this host or a file system does not take.

    :raise HostError: it says which.
    """
    from innkeeper.shares.servers import try_maps

    mapped = tuple(share for share in shares if share.maps)
    if mapped and (users.must or not users.own_user):
        try_maps(users, mapped)


def check_folder(share: Share) -> None:
    """Refuse a share whose folder is not there.

    :raise HostError: it is missing, no folder, or cannot be reached.
    """
    try:
        is_folder = Path(share.host).is_dir()
        missing = not is_folder and not Path(share.host).exists()
    except OSError as exc:
        raise HostError(
            f"the folder {share.host} cannot be shared: {exc.strerror}", stage="shares"
        ) from exc
    if not is_folder:
        raise HostError(
            f"the folder {share.host} cannot be shared: "
            + ("there is none" if missing else "it is no folder"),
            stage="shares",
            fix="make it, or take the share away",
        )

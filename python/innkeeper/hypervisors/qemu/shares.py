# SPDX-License-Identifier: Apache-2.0
"""A guest's shares: from their plan to QEMU's options and the guest's kernel words. Pure."""

from __future__ import annotations

from innkeeper.model.image import Image
from innkeeper.model.share import NINEP_PORT, TAG, TRANSPORT_DRIVERS, ShareCache, SharePlan

# The inherited descriptor of the connection to the server.
SHARES = "shares"

# What the client of Linux is told. Without a cache of pages, programs could not map files.
_NINEP_CACHE: dict[ShareCache, str] = {"never": "mmap", "auto": "mmap", "always": "loose"}

# The largest that virtio-fs takes; the default of 128 is quickly full.
_QUEUE_SIZE = 1024


def has_share_device(plan: SharePlan | None) -> bool:
    """Whether the guest gets a device for its shares."""
    return plan is not None and plan.transport == "virtiofs"


def share_options(plan: SharePlan | None) -> tuple[str, ...]:
    """The channel to the server."""
    if not has_share_device(plan):
        return ()
    return ("-chardev", f"socket,id={SHARES},fd=<fd:{SHARES}>")


def share_descriptors(plan: SharePlan | None) -> tuple[str, ...]:
    """The descriptors that QEMU inherits for shares."""
    return (SHARES,) if has_share_device(plan) else ()


def share_device(suffix: str) -> str:
    """The `-device` value.

    :param suffix: "device" on virtio-mmio, "pci" else.
    """
    return f"vhost-user-fs-{suffix},chardev={SHARES},tag={TAG},queue-size={_QUEUE_SIZE}"


def share_words(plan: SharePlan | None, image: Image) -> tuple[str, ...]:
    """What the agent must know to mount them (`crates/agent/src/init/shares.rs`)."""
    if plan is None or not image.agent:
        return ()
    places = (f'inn.share="{share.key}:{share.guest}"' for share in plan.shares)
    return (f"inn.shares={transport_word(plan)}", *places)


def transport_word(plan: SharePlan) -> str:
    """By what the agent reaches the server."""
    where = TAG if plan.transport == "virtiofs" else f"{NINEP_PORT},{_NINEP_CACHE[plan.cache]}"
    return f"{plan.transport}:{where}"


def share_modules(plan: SharePlan | None) -> tuple[str, ...]:
    """The guest's drivers that belong to no device of the plan."""
    if plan is None or has_share_device(plan):
        return ()
    return TRANSPORT_DRIVERS[plan.transport]

# SPDX-License-Identifier: Apache-2.0
"""This host's own files as a guest's root, by way of the shares: the guest's part. Pure."""

from __future__ import annotations

from innkeeper.errors import ImageError
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine
from innkeeper.model.share import ROOT_SHARE, SharePlan


def host_root_words(machine: Machine, shares: SharePlan | None) -> tuple[str, ...]:
    """What the agent must know to find the root (`crates/agent/src/init/cmdline.rs`)."""
    if shares is None or not shares.whole_host:
        return ()
    words = [f"inn.root=share:{ROOT_SHARE}", "ro", f"inn.overlay={machine.root_overlay}"]
    if shares.users.own_user:
        words.append("inn.foreign=on")
    # The host's units are none of a guest's.
    return (*words, "inn.units=off")


def host_root_modules(machine: Machine, image: Image) -> tuple[str, ...]:
    """The guest's modules for what lies over the root.

    :raise ImageError: the kernel cannot lay memory over it.
    """
    if machine.root != "host" or machine.root_overlay == "none":
        return ()
    if "overlay" in image.lacks:
        raise ImageError(
            f"kernel {image.kernel_release} has no driver overlay, which --root host needs",
            stage="kernel",
            fix="take a kernel with overlay (CONFIG_OVERLAY_FS), as Debian's have it, "
            "or --root-overlay none",
        )
    return ("overlay",)

# SPDX-License-Identifier: Apache-2.0
"""A bundle: a stored image with a root file system, as `inn image` makes and keeps it.

::

    <state>/images/NAME/     read-only once it is there; used by any number of guests
      bundle.json            this value
      vmlinuz[-FLAVOUR]      kernels as their makers shipped them
      modules[-FLAVOUR].cpio the modules that a guest needs before it has its root
      root.erofs             the root file system (or .squashfs, .ext4)
      tools.erofs            optional: a second read-only file system
      packages.txt           of a Debian image: its packages with their versions

The agent is not part of a bundle: it is added at each start, so that a bundle
stays good when innkeeper is updated.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec

RootType = Literal["erofs", "squashfs", "ext4", "btrfs", "xfs"]
ROOT_TYPES: tuple[RootType, ...] = ("erofs", "squashfs", "ext4", "btrfs", "xfs")

BUNDLE_FILE = "bundle.json"

# Of all guests, as in `uname -m`.
ARCH = "x86_64"

# Where the tools of a bundle of three files are looked for, by themselves too: their
# programs name their loader and libraries by this path.
TOOLS_AT = "/opt/google/cros-containers"


# It becomes a word of the kernel's command line.
_PLACE = re.compile(r"(?:/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+")


def is_tools_place(path: str) -> bool:
    """Whether a guest can be told to mount the tools there."""
    return _PLACE.fullmatch(path) is not None


class StoredFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a bundle.

    :ivar sha256: of its content, in hex.
    """

    name: str
    size_bytes: int
    sha256: str


class StoredKernel(msgspec.Struct, frozen=True, kw_only=True):
    """One of a bundle's kernels.

    :ivar flavour: by which a machine chooses it; the first one is the default.
    :ivar file: a bzImage or an ELF kernel.
    :ivar modules_file: a cpio archive of `lib/modules/RELEASE/`; "" where all that
        is needed is built in.
    :ivar modules: names of the modules in it.
    :ivar lacks: drivers that the kernel does not have at all, of those that a guest may need.
    """

    flavour: str
    release: str
    file: str
    modules_file: str = ""
    modules: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What a bundle holds. File names are relative to its folder.

    :ivar digest: SHA-256 over the names and digests of `files`, in hex.
    :ivar arch: as in `uname -m`.
    :ivar root: the root file system; "" for a bundle of kernels alone.
    :ivar init: what becomes PID 1 on the root: our agent, or a program of the root
        beside which the agent runs as a service.
    :ivar tools: a second read-only file system, or "".
    :ivar tools_type: its type.
    :ivar tools_at: where a guest finds it.
    :ivar recipe: what it was made from.
    """

    version: int = 1
    name: str
    digest: str
    arch: str = ARCH
    kernels: tuple[StoredKernel, ...]
    root: str = ""
    root_type: RootType = "erofs"
    init: str = "agent"
    tools: str = ""
    tools_type: RootType = "erofs"
    tools_at: str = TOOLS_AT
    files: tuple[StoredFile, ...]
    recipe: dict[str, Any] = {}

# SPDX-License-Identifier: Apache-2.0
"""The keywords of the API's calls, and the settings of a machine that they become.

The sync and the async classes take the same ones; each is described here.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from innkeeper.model.machine import (
    AcceleratorChoice,
    Forward,
    Network,
    RestartPolicy,
    RootDevice,
    RootOf,
    RootOverlay,
)
from innkeeper.model.machine import Machine as Settings
from innkeeper.model.share import ShareCache, ShareTransportChoice, anchor_share
from innkeeper.model.toml import machine_from_table

_CONSOLE_BYTES = 256 << 10


class MachineOptions(TypedDict, total=False):
    """What a guest is made of.

    :ivar cid: vsock address; any that is free where it is left out.
    :ivar cpus: 1 by default.
    :ivar memory: as "512M", the default, or in bytes.
    :ivar network: "none" (the default), "user", "tap" or "bridge=NAME".
    :ivar ports: published ports as "8080:80"; they need the network "user" or "tap".
    :ivar disks: disks of `inn disk` and their places, as "data:/mnt/data" or with ":ro".
    :ivar forward: "auto" leads the host's loopback to ports that the guest
        listens on; "none" by default.
    :ivar append: words for the kernel command line.
    :ivar flavour: which of the image's kernels; "" is its first.
    :ivar root_overlay: "temp" (the default), "keep", "copy" or "none": where the guest's
        changes of its image's root go.
    :ivar root: "image" (the default) or "host".
    :ivar root_device: "blk" (the default) or "pmem".
    :ivar kernel: a kernel of the caller's instead of the image's.
    :ivar initrd: an initramfs instead of the image's.
    :ivar firmware: "default", "uefi" or two files as "CODE:VARIABLES".
    :ivar oem_strings: texts in the guest's SMBIOS table, type 11.
    :ivar timezone: "host" by default, "utc", "guest" or as "Europe/Berlin".
    :ivar qemu_args: arguments added to QEMU's own.
    :ivar shares: folders of the host as "HOST:GUEST", with ":ro" for read-only.
    :ivar share_cache: what of them the guest may keep: "never" (the default), "auto", "always".
    :ivar share_transport: "auto" by default, "virtiofs" or "9p".
    :ivar notify: what the host changes in shares wakes the guest's watchers.
    """

    cid: int
    cpus: int
    memory: str | int
    network: Network
    ports: Sequence[str]
    disks: Sequence[str]
    forward: Forward
    append: Sequence[str]
    flavour: str
    root_overlay: RootOverlay
    root: RootOf
    root_device: RootDevice
    kernel: str | Path | None
    initrd: str | Path | None
    accel: AcceleratorChoice
    firmware: str
    oem_strings: Sequence[str]
    qemu_args: Sequence[str]
    timezone: str
    shares: Sequence[str]
    share_cache: ShareCache
    share_transport: ShareTransportChoice
    notify: bool


class RunOptions(MachineOptions, total=False):
    """Keywords of `Machine.run`.

    :ivar name: the guest's name and host name; one is made up by default.
    :ivar console: a file that gets a copy of the guest's console.
    :ivar logs: a folder for the guest's logs, as `Machine.logs` reads them; the
        console's is left out where `console` takes it.
    :ivar timeout_s: limit for the start.
    """

    name: str | None
    console: str | Path | None
    logs: str | Path | None
    timeout_s: float | None


class CreateOptions(MachineOptions, total=False):
    """Keywords of `Machine.create`.

    :ivar image: "tiny" by default.
    :ivar restart: whether a guest that ended by itself is started again;
        "never" by default.
    """

    image: str
    restart: RestartPolicy


class CommandOptions(TypedDict, total=False):
    """How a command is started.

    :ivar env: variables beside the guest's own.
    :ivar cwd: folder to start in.
    :ivar user: name or "uid[:gid]"; root by default.
    """

    env: Mapping[str, str] | None
    cwd: str | None
    user: str | None


class PopenOptions(CommandOptions, total=False):
    """Keywords of `popen`.

    :ivar tty: give the command a terminal of 24 lines; stderr then comes with stdout.
    :ivar detach: keep its session when this process goes away; `detach()` leaves
        it, and `Machine.attach` goes on with it by its `session_id`.
    """

    tty: bool
    detach: bool


class ExecOptions(CommandOptions, total=False):
    """Keywords of `exec`.

    :ivar input: the command's stdin; empty by default.
    :ivar check: raise where the exit code is not 0.
    :ivar timeout_s: the command gets SIGTERM then, and a second.
    :ivar max_output_bytes: so much of each output is kept, 64 MiB by default;
        the result says where there was more.
    """

    input: bytes | str
    check: bool
    timeout_s: float | None
    max_output_bytes: int


def build_settings(name: str, *, source: str, **values: Any) -> Settings:
    """The settings as a machine file would give them.

    :raise UsageError: one makes no sense.
    """
    table = {key: _plain(value) for key, value in values.items() if value is not None}
    table["memory"] = str(table.get("memory", "512M"))
    if "shares" in table:
        here = str(Path.cwd())
        table["shares"] = [anchor_share(str(text), here) for text in table["shares"]]
    return machine_from_table(table, source=source, name=name)


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a machine file can hold
    """A value as it would come from a file."""
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def read_tail(path: Path, lines: int) -> tuple[str, ...]:
    """The last lines of a console, control characters made harmless; () where there is none."""
    with contextlib.suppress(OSError), path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _CONSOLE_BYTES))
        text = file.read(_CONSOLE_BYTES).decode("utf-8", "replace")
        shown = ("".join(c if c.isprintable() else " " for c in x) for x in text.splitlines())
        return tuple(deque(shown, maxlen=lines))
    return ()

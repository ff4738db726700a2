# SPDX-License-Identifier: Apache-2.0
"""Guests to measure: plain QEMU with our options, and ours, held open."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.samples import Failed
from tests.bench.workspace import INN, Workspace, running

# Options of the plan without a value.
_FLAGS = ("-nodefaults", "-no-user-config", "-no-reboot")


def without_channels(planned: Sequence[str], *, keep_device: str | None = None) -> list[str]:
    """The argv of a plan without our channels and devices.

    :param keep_device: a word of the devices that stay.
    """
    argv, options = list(planned[:1]), iter(planned[1:])
    for option in options:
        if option in _FLAGS:
            argv.append(option)
            continue
        value = next(options)
        ours = option in {"-chardev", "-mon"} or (
            option == "-device" and (keep_device is None or keep_device not in value)
        )
        if not ours:
            argv += [option, value]
    return argv


def with_option(argv: list[str], option: str, value: str) -> list[str]:
    """The argv with another value of an option that it has."""
    place = argv.index(option) + 1
    return [*argv[:place], value, *argv[place + 1 :]]


def plain_argv(
    bench: Workspace, initrd: Path, *extra: str, console: str = "null", kernel: str | None = None
) -> list[str]:
    """The plan's QEMU without channels: same machine, CPU, memory, kernel and command line.

    :param console: the chardev behind the serial port, with its options.
    """
    argv = with_option(without_channels(bench.plan["qemu"]["argv"]), "-initrd", str(initrd))
    if kernel is not None:
        argv = with_option(argv, "-kernel", kernel)
    kind, _, rest = console.partition(",")
    chardev = ",".join(part for part in (kind, "id=console", rest) if part)
    return [*argv, "-chardev", chardev, *extra]


@dataclass(frozen=True)
class HeldGuest:
    """A guest of ours with a command that runs until its stdin ends.

    :ivar process: the `inn run` around it.
    """

    name: str
    folder: Path
    process: subprocess.Popen[bytes]

    @property
    def vsock(self) -> Path:
        """The socket for `CONNECT <port>`."""
        return self.folder / "vsock.sock"

    def pid(self, of: str) -> int:
        """The process id of the keeper or of QEMU."""
        return int(json.loads((self.folder / "state.json").read_text())[f"{of}_pid"])


@contextlib.contextmanager
def held_guest(
    bench: Workspace, name: str, command: Sequence[str], ready: bytes, *options: str
) -> Iterator[HeldGuest]:
    """A guest in which `command` runs; begins when that has written `ready`, a line."""
    log = bench.folder / f"{name}.log"
    argv = [str(INN), "run", "--name", name, *options, "--", *command]
    pipe = subprocess.PIPE
    with running(argv, log=log, stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if line != ready:
            said = log.read_bytes()[-500:].decode(errors="replace")
            raise Failed(f"guest {name} said {line!r}: {said}")
        folder = Path(os.environ["INN_RUNTIME_DIR"]) / name
        yield HeldGuest(name, folder, process)

# SPDX-License-Identifier: Apache-2.0
"""Two guests that reach each other: behind our devices, and behind vhost-device-vsock."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.guests import plain_argv
from tests.bench.machines import state_of_its_own
from tests.bench.samples import Failed, Skipped
from tests.bench.vsock_peers import OURS, THEIRS
from tests.bench.workspace import BOOT_LIMIT_S, INN, Workspace, run_quietly, running, wait_until

from innkeeper.agent.connect import connect_port
from innkeeper.agent.session import exec_capture
from innkeeper.errors import InnError
from innkeeper.model.machine import Command
from innkeeper.switchboard.ports import SHELL_PORT

PORT = 5001

_HOW = "cargo install vhost-device-vsock --locked --root DIR, then --tools DIR"
_NETWORK = "10.213.250"
_BRIDGE = "innbench0"

_TOPOLOGY = """\
name = "bench"

[machines.left]
memory = "512M"
{network}
[machines.right]
memory = "512M"
{network}
[[policy]]
from = "*"
to = "*"

[[policy]]
from = "*"
to = "*"
operations = ["register-single", "send", "notify", "query"]
"""


@dataclass(frozen=True)
class Pair:
    """Two guests; the left one asks.

    :ivar left: the left guest's socket for `CONNECT <port>`; its connections to
        port P of the host arrive on the same path with `_P` behind it.
    :ivar right_cid: how the left one calls the right one.
    :ivar right_ip: the same over TCP, None where the two have no network.
    """

    name: str
    left: Path
    right: Path
    left_cid: int
    right_cid: int
    right_ip: str | None
    qemu_pids: tuple[int, ...]
    device_pids: tuple[int, ...]


def exec_in(vsock: Path, *argv: str, limit_s: float = BOOT_LIMIT_S) -> bytes:
    """The stdout of a command in a guest.

    :raise Failed: it ended with another code than 0.
    """
    with connect_port(vsock, SHELL_PORT, timeout_s=limit_s) as sock:
        done = exec_capture(sock, Command(argv=argv), timeout_s=limit_s)
    if done.code != 0:
        raise Failed(done.stderr.decode(errors="replace").strip() or f"code {done.code}")
    return done.stdout


def keep_in(vsock: Path, command: str, *, until: str) -> None:
    """Let a command run in a guest; it has said `until` when this returns."""
    said = f"/tmp/said-{re.sub('[^a-z0-9]', '', command)[-32:]}"
    script = (
        f"setsid {command} </dev/null >/dev/null 2>{said} & "
        f"until grep -q '{until}' {said}; do "
        f"kill -0 $! || {{ cat {said} >&2; exit 1; }}; sleep 0.01; done"
    )
    exec_in(vsock, "sh", "-c", script)


def serve_in(vsock: Path, address: str) -> None:
    """Let a guest serve measurements on an address; it does when this returns."""
    keep_in(vsock, f"inn-guest throughput serve {address}", until="listening")


@contextlib.contextmanager
def our_pair(bench: Workspace) -> Iterator[Pair]:
    """A topology of two machines; as root they are also on a bridge."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(state_of_its_own(bench, "switchboard"))
        bridged = stack.enter_context(_bridge())
        file = bench.folder / "bench.toml"
        network = f'network = "bridge={_BRIDGE}"\nwait = "none"\n' if bridged else ""
        file.write_text(_TOPOLOGY.format(network=network))
        run_quietly([str(INN), "up", str(file)], limit_s=2 * BOOT_LIMIT_S)
        stack.callback(run_quietly, [str(INN), "down", "bench"])
        (listed,) = json.loads(run_quietly([str(INN), "ps", "--format", "json"]))["topologies"]
        cids = {machine["name"]: machine["cid"] for machine in listed["machines"]}
        folders = [Path(os.environ["INN_RUNTIME_DIR"]) / name for name in ("left", "right")]
        records = [json.loads((folder / "state.json").read_text()) for folder in folders]
        left, right = (folder / "vsock.sock" for folder in folders)
        if bridged:
            for number, vsock in enumerate((left, right), 1):
                _wait_for_agent(vsock)
                _address(vsock, f"{_NETWORK}.{number}/24")
        yield Pair(
            name=OURS,
            left=left,
            right=right,
            left_cid=cids["left"],
            right_cid=cids["right"],
            right_ip=f"{_NETWORK}.2" if bridged else None,
            qemu_pids=tuple(record["qemu_pid"] for record in records),
            device_pids=tuple(record["keeper_pid"] for record in records),
        )


def _address(vsock: Path, address: str) -> None:
    # Nobody answers DHCP on the bridge; who asks for an address there would
    # take this one away again.
    script = (
        "dev=$(cd /sys/class/net && echo e*); pkill udhcpc; "
        f"ip link set $dev up && ip addr flush dev $dev && ip addr add {address} dev $dev"
    )
    exec_in(vsock, "sh", "-c", script)


@contextlib.contextmanager
def _bridge() -> Iterator[bool]:
    """A bridge for the length of the block; False where this user cannot make one."""
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        yield False
        return
    run_quietly(["ip", "link", "add", _BRIDGE, "type", "bridge"])
    try:
        run_quietly(["ip", "link", "set", _BRIDGE, "up"])
        yield True
    finally:
        run_quietly(["ip", "link", "del", _BRIDGE])


@contextlib.contextmanager
def their_pair(bench: Workspace) -> Iterator[Pair]:
    """Two guests of one vhost-device-vsock, siblings; our agent is their init, too.

    :raise Skipped: it is not installed.
    """
    daemon = bench.tool(THEIRS, _HOW)
    option = bench.plan["qemu"]["devices"][0]["option"].partition(",")[0]
    initrd = Path(bench.plan["image"]["initrd"])
    # Below the runtime folder: a Unix socket's path holds 107 bytes.
    folder = Path(os.environ["INN_RUNTIME_DIR"]) / "siblings"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = bench.folder / "siblings.log"
    argv = [daemon]
    for cid in (3, 4):
        argv += ["--vm", f"guest-cid={cid},socket={folder}/v{cid},uds-path={folder}/s{cid}"]
    with contextlib.ExitStack() as stack:
        device = stack.enter_context(running(argv, log=log, own_session=True))
        pids = []
        for cid in (3, 4):
            wait_until((folder / f"v{cid}").exists, "the device's socket", device, log)
            qemu = stack.enter_context(
                running(
                    _sibling(bench, initrd, option, folder / f"v{cid}"), log=log, own_session=True
                )
            )
            pids.append(qemu.pid)
        for cid in (3, 4):
            _wait_for_agent(folder / f"s{cid}")
        yield Pair(THEIRS, folder / "s3", folder / "s4", 3, 4, None, tuple(pids), (device.pid,))


def _sibling(bench: Workspace, initrd: Path, option: str, vhost: Path) -> Sequence[str]:
    return plain_argv(
        bench,
        initrd,
        *("-chardev", f"socket,id=vsock,path={vhost}"),
        *("-device", f"{option},chardev=vsock"),
    )


def _wait_for_agent(vsock: Path) -> None:
    """Until a guest runs commands: their device cannot tell when it does."""
    deadline = time.monotonic() + BOOT_LIMIT_S
    while True:
        try:
            exec_in(vsock, "true", limit_s=5)
        except (OSError, InnError, Failed) as error:
            if time.monotonic() > deadline:
                raise Skipped(f"no agent behind {THEIRS}: {error}") from error
            time.sleep(0.2)
        else:
            return

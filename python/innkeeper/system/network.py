# SPDX-License-Identifier: Apache-2.0
"""Network interfaces of this host: tap devices, and what `ip` and `nft` do.

Addresses, links and rules go through the programs of the distribution: they
cost the keeper no memory, and they know what this kernel's netlink speaks.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from innkeeper.errors import HostError
from innkeeper.system.process import find_program, require_program, run_tool

# linux/if_tun.h. IFF_VNET_HDR: QEMU hands checksums and segmentation on, as virtio-net does.
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFREQ = struct.Struct("16sH22x")
_TUN = "/dev/net/tun"
_VHOST_NET = "/dev/vhost-net"

# linux/capability.h
_CAP_NET_ADMIN = 12

_TOOL_LIMIT_S = 10.0
_PACKAGES = {"ip": "iproute2", "nft": "nftables", "dnsmasq": "dnsmasq-base"}


def may_configure_networks() -> bool:
    """True where this process has CAP_NET_ADMIN; over which namespace, only a try can say."""
    with contextlib.suppress(OSError):
        match = re.search(
            r"^CapEff:\s+([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE
        )
        return match is not None and bool(int(match[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def network_program(name: str) -> str:
    """The path of a program that networks need.

    :raise MissingProgram: it is not installed.
    """
    return require_program(
        name,
        stage="network",
        fix=f"apt-get install {_PACKAGES.get(name, name)}, or use --network user",
    )


def maps_user(uid: int) -> bool:
    """True where a user id exists in our user namespace (user_namespaces(7))."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/uid_map").read_text().splitlines():
            first, _, count = map(int, line.split())
            if first <= uid < first + count:
                return True
    return False


class Tap:
    """A tap device of ours: it exists as long as somebody holds its descriptor.

    The name is a claim: the kernel gives it to one at a time, and takes it
    back when the last holder dies.
    """

    def __init__(self, name: str, fd: int) -> None:
        self.name = name
        self._fd = fd

    def fileno(self) -> int:
        """The descriptor, for handing the device to a child."""
        return self._fd

    def close(self) -> None:
        """Give the device up. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_tap(name: str) -> Tap | None:
    """A new tap device with this name; None where there is such an interface already.

    :raise HostError: this process may not make one, or there is no /dev/net/tun.
    """
    try:
        fd = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as exc:
        raise _no_tap(exc) from exc
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(name.encode("ascii"), flags))
    except OSError as exc:
        os.close(fd)
        if exc.errno in (errno.EBUSY, errno.EEXIST, errno.EINVAL):
            return None
        raise _no_tap(exc) from exc
    except BaseException:
        os.close(fd)
        raise
    return Tap(name, fd)


def open_vhost_net() -> int | None:
    """A descriptor of /dev/vhost-net, which the caller closes; None where it does not open."""
    with contextlib.suppress(OSError):
        return os.open(_VHOST_NET, os.O_RDWR | os.O_CLOEXEC)
    return None


def run_ip(commands: Sequence[str]) -> None:
    """Carry out lines of `ip -batch`, until one fails.

    :raise HostError: with what `ip` said.
    """
    text = "".join(f"{command}\n" for command in commands)
    argv = [network_program("ip"), "-batch", "-"]
    run_tool(argv, stage="network", timeout_s=_TOOL_LIMIT_S, stdin_bytes=text.encode())


def ask_ip(*arguments: str) -> list[dict[str, Any]]:
    """What `ip -json` answers; [] where it refuses.

    :raise MissingProgram: there is no `ip`.
    """
    argv = [network_program("ip"), "-json", *arguments]
    done = run_tool(argv, stage="network", timeout_s=_TOOL_LIMIT_S, check=False)
    try:
        found = json.loads(done.stdout or b"[]")
    except ValueError:
        return []
    # An old `ip` prints {} for what another option leaves out.
    return [item for item in found if isinstance(item, dict) and item]


def run_nft(rules: str) -> None:
    """Carry out nftables rules, all or none.

    :raise HostError: with what `nft` said.
    """
    argv = [network_program("nft"), "-f", "-"]
    run_tool(argv, stage="network", timeout_s=_TOOL_LIMIT_S, stdin_bytes=rules.encode())


def nft_tables() -> tuple[str, ...]:
    """The names of the tables of family inet; () where they cannot be listed."""
    program = find_program("nft")
    if program is None:
        return ()
    argv = [program, "-j", "list", "tables"]
    done = run_tool(argv, stage="network", timeout_s=_TOOL_LIMIT_S, check=False)
    with contextlib.suppress(ValueError, KeyError, TypeError):
        items = (item["table"] for item in json.loads(done.stdout)["nftables"] if "table" in item)
        return tuple(item["name"] for item in items if item["family"] == "inet")
    return ()


def set_net_option(path: str, value: int) -> bool:
    """Set a value below /proc/sys/net; False where it has that value or there is no such option.

    :raise HostError: it cannot be written.
    """
    file = Path("/proc/sys/net") / path
    try:
        if int(file.read_text()) == value:
            return False
        file.write_text(f"{value}\n")
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise HostError(f"cannot write {file}: {exc.strerror}", stage="network") from exc
    return True


def _no_tap(exc: OSError) -> HostError:
    return HostError(
        f"cannot make a tap device: {exc.strerror}",
        stage="network",
        fix="run as root, or use --network user",
    )

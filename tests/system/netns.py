# SPDX-License-Identifier: Apache-2.0
"""A host of its own for the tests of networks: user, network and mount namespaces.

::

    guests ── tap or bridge ── the "host" 192.0.2.1 ── veth ── "outside" 192.0.2.2, .3

Nothing of the real host's network is seen or changed, and no right of the
real host is needed but to make user namespaces and to open /dev/net/tun.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from guests import BOOT_LIMIT_S, INN, Inn, Result

HOST = "192.0.2.1"
OUTSIDE = "192.0.2.2"
OTHER_DNS = "192.0.2.3"
TCP_PORT = 7000

# Tells each client which address it came from.
_SERVER = f"""
import socket
with socket.create_server(("{OUTSIDE}", {TCP_PORT})) as server:
    print("ready", flush=True)
    while True:
        client, address = server.accept()
        with client:
            client.sendall((address[0] + "\\n").encode())
"""


class Namespace:
    """Processes that share namespaces of their own, held by one that waits for its stdin."""

    def __init__(self, *options: str, within: Namespace | None = None) -> None:
        self._children: list[subprocess.Popen[bytes]] = []
        argv = ["unshare", *options, "--", "sh", "-c", "echo ready; exec cat"]
        self._holder = subprocess.Popen(
            within.enter(*argv) if within is not None else argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._await_ready(self._holder)
        # nsenter and unshare both end in an exec, so the pid is the holder's.
        self.pid = self._holder.pid

    @staticmethod
    def _await_ready(process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            _, error = process.communicate(timeout=10)
            pytest.skip(f"no namespaces here: {error.decode().strip()}")

    def enter(self, *argv: str) -> list[str]:
        """The argv that runs a program in here."""
        options = ("--user", "--preserve-credentials", "--net", "--mount")
        return ["nsenter", "--target", str(self.pid), *options, "--", *argv]

    def run(self, *argv: str, stdin: str = "") -> str:
        """The stdout of a program that must succeed."""
        done = subprocess.run(
            self.enter(*argv), input=stdin, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def ip(self, *commands: str) -> None:
        """Carry out lines of `ip -batch`."""
        self.run("ip", "-batch", "-", stdin="\n".join(commands) + "\n")

    def serve(self, *argv: str, ready: bytes) -> subprocess.Popen[bytes]:
        """Start a server, and wait until it says that it is one."""
        child = subprocess.Popen(
            self.enter(*argv),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._children.append(child)
        assert child.stdout is not None
        said = b""
        for line in child.stdout:
            said += line
            if ready in line:
                return child
        pytest.fail(f"{argv[0]} did not start: {said.decode()}")

    def end(self, child: subprocess.Popen[bytes]) -> None:
        """End a server."""
        self._children.remove(child)
        self._end(child)

    def close(self) -> None:
        """End everything that was started here."""
        self._end(*self._children, self._holder)

    @staticmethod
    def _end(*processes: subprocess.Popen[bytes]) -> None:
        for process in processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


class NetworkHost:
    """The "host" on which `inn` runs, and what is outside of it."""

    def __init__(self, folder: Path, cache_dir: str) -> None:
        self._env = {
            "INN_CACHE_DIR": cache_dir,
            "INN_RUNTIME_DIR": os.environ["INN_RUNTIME_DIR"],
            "INN_STATE_DIR": os.environ["INN_STATE_DIR"],
            # Room for two guests.
            "INN_TAP_POOL": "10.99.0.0/29",
        }
        self.inside = Namespace("--user", "--map-root-user", "--net", "--mount")
        self.outside = Namespace("--net", within=self.inside)
        self._own_etc(folder)
        self.inside.ip(
            "link set lo up",
            f"link add h0 type veth peer name eth0 netns {self.outside.pid}",
            f"address add {HOST}/24 dev h0",
            "link set h0 up",
            f"route add default via {OUTSIDE}",
        )
        self.outside.ip(
            "link set lo up",
            f"address add {OUTSIDE}/24 dev eth0",
            f"address add {OTHER_DNS}/24 dev eth0",
            "link set eth0 up",
        )
        self.outside.serve(sys.executable, "-c", _SERVER, ready=b"ready")
        self.serve_dns(OUTSIDE, "198.51.100.1")
        self.serve_dns(OTHER_DNS, "198.51.100.2")

    def _own_etc(self, folder: Path) -> None:
        """An /etc of our own, whose resolv.conf can change as a file does."""
        etc, work = folder / "etc", folder / "work"
        etc.mkdir()
        work.mkdir()
        layers = f"lowerdir=/etc,upperdir={etc},workdir={work}"
        argv = self.inside.enter("mount", "-t", "overlay", "overlay", "-o", layers, "/etc")
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
        if done.returncode != 0:
            self.close()
            pytest.skip(f"no overlay in a user namespace: {done.stderr.strip()}")
        self.set_resolv(OUTSIDE, "one.test")

    def set_resolv(self, nameserver: str, domain: str) -> None:
        """Replace the host's resolv.conf, as programs do that care for it."""
        text = f"nameserver {nameserver}\nsearch {domain}\n"
        script = "cat >/etc/resolv.conf.new && mv -f /etc/resolv.conf.new /etc/resolv.conf"
        self.inside.run("sh", "-c", script, stdin=text)

    def serve_dns(self, address: str, answer: str) -> None:
        """A name server outside with one answer for every name in .test."""
        self.outside.serve(
            *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"),
            *("--bind-interfaces", f"--listen-address={address}", f"--address=/test/{answer}"),
            ready=b"started, version",
        )

    def inn(self, *arguments: str) -> Result:
        """Run `inn` on this host to its end."""
        since = time.monotonic()
        done = subprocess.run(
            self.inside.enter(*INN, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**os.environ, **self._env},
            timeout=BOOT_LIMIT_S,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr, time.monotonic() - since)

    def inspect(self, name: str) -> dict[str, Any]:
        """What `inn inspect` says of a machine."""
        value: dict[str, Any] = json.loads(self.inn("inspect", name, "--format", "json").stdout)
        return value

    def leftovers(self) -> tuple[list[str], list[str]]:
        """Interfaces and tables of innkeeper's that are there now."""
        links = json.loads(self.inside.run("ip", "-json", "link"))
        tables = json.loads(self.inside.run("nft", "-j", "list", "tables"))["nftables"]
        return (
            [link["ifname"] for link in links if link["ifname"].startswith("inn")],
            [item["table"]["name"] for item in tables if "table" in item],
        )

    def close(self) -> None:
        """Take it all down."""
        self.outside.close()
        self.inside.close()


def check_inn(inn: Inn, *arguments: str) -> str:
    """The stdout of an `inn` that must succeed."""
    done = inn(*arguments)
    assert done.code == 0, done.error
    return done.stdout.decode()

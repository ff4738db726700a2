# SPDX-License-Identifier: Apache-2.0
"""`inn-guest proxy` and `inn-guest throughput` between two guests without a network."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from guests import INN, Background, Inn

from innkeeper.images.tiny import agent_path

TOPOLOGY = """\
name = "tools"

[machines.near]
memory = "128M"

[machines.far]
memory = "128M"

[[policy]]
from = "near"
to = "far"
port = "22,80,5001"
"""
SIZE = "3000001"

Serving = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def far_cid(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Both guests run, and `far` serves measurements on TCP and vsock."""
    path = tmp_path_factory.mktemp("topology") / "tools.toml"
    path.write_text(TOPOLOGY)
    up = subprocess.run([*INN, "up", str(path)], capture_output=True, check=False)
    assert up.returncode == 0, up.stderr.decode()
    listed = subprocess.run([*INN, "ps", "--format", "json"], capture_output=True, check=True)
    (topology,) = json.loads(listed.stdout)["topologies"]
    cids = {machine["name"]: machine["cid"] for machine in topology["machines"]}
    yield str(cids["far"])
    down = subprocess.run([*INN, "down", "tools"], capture_output=True, check=False)
    assert down.returncode == 0, down.stderr.decode()


@pytest.fixture
def serving(background: Background) -> Serving:
    """Start a command in a guest, and wait until it says that it listens."""

    def start(name: str, *command: str) -> subprocess.Popen[bytes]:
        process = background("exec", name, "--", "inn-guest", *command)
        assert process.stderr is not None
        line = process.stderr.readline()
        assert b"listening on" in line, line + process.stderr.read()
        return process

    return start


def measured(inn: Inn, *command: str) -> dict[str, Any]:
    done = inn("exec", "near", "--", "inn-guest", "throughput", *command, "--format", "json")
    assert done.code == 0, done.error
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def test_throughput_measures_a_stream_between_guests(
    inn: Inn, far_cid: str, serving: Serving
) -> None:
    serving("far", "throughput", "serve", "vsock::5001")
    address = f"vsock:{far_cid}:5001"
    sent = measured(inn, "send", "-d", "-s", SIZE, address)
    assert (sent["version"], sent["mode"], sent["size_bytes"]) == (1, "send", int(SIZE))
    assert sent["digests_equal"] is True
    assert sent["mib_per_s"] == pytest.approx(int(SIZE) / sent["seconds"] / (1 << 20), rel=0.01)
    fetched = measured(inn, "fetch", "-d", "-s", SIZE, "-b", "1000", "-w", "1M", address)
    assert fetched["digests_equal"] is True
    assert fetched["digest"] != sent["digest"], "other blocks, other bytes"
    pinged = measured(inn, "ping", "-c", "50", "-s", "3K", address)
    trips = pinged["round_trip_us"]
    assert pinged["count"] == 50
    assert 0 < trips["min"] <= trips["p50"] <= trips["p99"] <= trips["max"]
    done = inn("exec", "near", "--", "inn-guest", "throughput", "send", "-s", "1K", address)
    assert b"sent 1024 bytes in" in done.stdout


def test_a_proxy_at_each_end_joins_tcp_to_tcp(inn: Inn, far_cid: str, serving: Serving) -> None:
    assert far_cid
    serving("far", "throughput", "serve", "tcp:127.0.0.1:5002")
    serving("far", "proxy", "vsock::22", "tcp:127.0.0.1:5002")
    serving("near", "proxy", "tcp:127.0.0.1:8080", "vsock:far:22")
    for verb in ("send", "fetch"):
        assert measured(inn, verb, "-d", "-s", SIZE, "tcp:127.0.0.1:8080")["digests_equal"]


def test_half_closes_pass_two_proxies_and_unix_sockets(
    inn: Inn, far_cid: str, serving: Serving, background: Background
) -> None:
    assert far_cid
    # It answers when the question is over, and then all at once.
    echo = background(
        *("exec", "far", "--", "sh", "-c"),
        "mkfifo /tmp/f; inn-agent vsock-listen 80 </tmp/f | (cat >/tmp/q; cat /tmp/q) >/tmp/f",
    )
    assert echo.stderr is not None
    assert echo.stderr.readline() == b"listening\n"
    serving("near", "proxy", "unix:/tmp/p.sock", "vsock:far.inn:80")
    sent = hashlib.sha256(b"x").digest() * (1 << 15)
    done = inn("exec", "near", "--", "inn-agent", "unix-connect", "/tmp/p.sock", stdin=sent)
    assert done.code == 0, done.error
    assert hashlib.sha256(done.stdout).digest() == hashlib.sha256(sent).digest()


def test_a_proxy_says_why_and_ends_by_a_signal(inn: Inn, far_cid: str) -> None:
    # Nothing listens on port 80, and no rule allows port 81: the same answer.
    script = """
        inn-guest proxy tcp:127.0.0.1:8081 vsock:{cid}:80 tcp:127.0.0.1:8082 vsock:{cid}:81 \\
            unix:/tmp/gone.sock vsock:nobody:1 2>/tmp/said & pid=$!
        until grep -q gone.sock /tmp/said; do :; done
        for address in tcp:127.0.0.1:8081 tcp:127.0.0.1:8082 unix:/tmp/gone.sock; do
            inn-guest throughput ping $address && exit 9
        done
        kill $pid; wait $pid; echo "code $?"; ls /tmp/gone.sock; cat /tmp/said
    """
    done = inn("exec", "near", "--", "sh", "-c", script.format(cid=far_cid))
    said = done.stdout.decode()
    assert said.startswith("code 0\n"), said + done.error
    meaning = "nobody listens there, or no rule of the topology allows it"
    for port in (80, 81):
        assert f"inn-guest proxy: vsock:{far_cid}:{port}: {meaning} (Connection reset" in said
    assert "nobody: " in said
    assert "No such file or directory" in done.error


def test_what_cannot_be_done_is_said(inn: Inn, far_cid: str) -> None:
    assert far_cid
    for command, code, text in (
        ("proxy tcp:127.0.0.1:80", 2, "give LISTEN and CONNECT"),
        ("proxy tcp:80 vsock:far:80", 2, "tcp:80: write tcp:HOST:PORT"),
        ("proxy unix:/nowhere/x vsock:2:1", 1, "unix:/nowhere/x: No such file"),
        ("proxy tcp:example.org:80 vsock:2:1", 1, "not in /etc/hosts"),
        ("throughput send vsock:2:4999", 1, "nobody listens there"),
        ("throughput", 2, "say serve, send, fetch or ping"),
    ):
        done = inn("exec", "near", "--", "inn-guest", *command.split())
        assert done.code == code, done.error
        assert text in done.error
    for command in ("proxy", "throughput"):
        done = inn("exec", "near", "--", "inn-guest", command, "--help")
        assert done.stdout.startswith(f"usage: inn-guest {command}".encode())


def test_the_host_measures_a_guest_by_its_socket(
    far_cid: str, serving: Serving, runtime_dir: Path
) -> None:
    assert far_cid
    serving("far", "throughput", "serve", "--once", "vsock::5003")
    address = f"hybrid:{runtime_dir}/far/vsock.sock:5003"
    done = subprocess.run(
        [
            agent_path(),
            "inn-guest",
            "throughput",
            "send",
            "-d",
            "-s",
            SIZE,
            "--format=json",
            address,
        ],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["digests_equal"] is True

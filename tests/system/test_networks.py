# SPDX-License-Identifier: Apache-2.0
"""Networks of the kinds tap and bridge, on a host of namespaces."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from guests import INN, Inn, alive
from netns import HOST, OTHER_DNS, OUTSIDE, TCP_PORT, NetworkHost, check_inn

from innkeeper.registry.layout import plan_layout
from innkeeper.system.host import device_access

Eventually = Callable[[Callable[[], bool]], None]

_TOOLS = ("ip", "nft", "dnsmasq", "unshare", "nsenter")
_HTTP, _UDP = 18080, 15353

_SEND_UDP = f"""
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    for _ in range(5):
        sock.sendto(b"hello", ("127.0.0.1", {_UDP}))
"""
_GET = f"""
import urllib.request
print(urllib.request.urlopen("http://127.0.0.1:{_HTTP}/", timeout=20).read().decode())
"""


@pytest.fixture(scope="module")
def host(state_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkHost]:
    """A host of our own."""
    missing = [name for name in _TOOLS if shutil.which(name, path=_path()) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    refusal = device_access("/dev/net/tun")
    if refusal is not None:
        pytest.skip(f"/dev/net/tun: {refusal}")
    cache = plan_layout(os.environ, os.geteuid()).cache_dir
    made = NetworkHost(tmp_path_factory.mktemp("host"), cache)
    yield made
    left = made.leftovers()
    made.close()
    assert left == ([], [])


def _path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@pytest.fixture(scope="module")
def machines(host: NetworkHost) -> Iterator[tuple[str, str]]:
    """Two running machines, each on a tap."""
    publish = ("-p", f"{_HTTP}:80", "-p", f"{_UDP}:7/udp")
    try:
        check_inn(host.inn, "create", "left", "--network", "tap", *publish)
        check_inn(host.inn, "create", "right", "--network", "tap", "--forward", "auto")
        # At the same moment: two networks are free, and each gets one of its own.
        with ThreadPoolExecutor() as pool:
            begun = list(pool.map(lambda name: host.inn("start", name), ("left", "right")))
        assert [done.code for done in begun] == [0, 0], [done.error for done in begun]
        assert "turned on net.ipv4.ip_forward" in "".join(done.error for done in begun)
        yield "left", "right"
    finally:
        host.inn("rm", "-f", "left", "right")


def in_guest(host: NetworkHost, name: str, script: str) -> str:
    """The output of a shell script in a guest."""
    return check_inn(host.inn, "exec", name, "sh", "-c", script)


def test_a_guest_on_a_tap_reaches_the_world(host: NetworkHost, machines: tuple[str, str]) -> None:
    said = in_guest(
        host,
        "left",
        'gateway=$(ip route | sed -n "s/default via \\([0-9.]*\\).*/\\1/p")\n'
        "ping -c 1 -W 5 $gateway >/dev/null && echo pinged $gateway\n"
        f"nc {OUTSIDE} {TCP_PORT} </dev/null\n"
        "nslookup name.test\n"
        "cat /etc/resolv.conf /sys/class/net/eth0/address\n"
        "udhcpc -n -q -i eth0 -s /bin/true 2>&1",
    )
    network = host.inspect("left")["record"]["network"]
    gateway = network["gateway"]
    assert f"pinged {gateway}" in said
    # The world outside sees the host and not the guest.
    assert f"\n{HOST}\n" in said
    assert "198.51.100.1" in said
    assert f"nameserver {gateway}\nsearch one.test\n" in said
    assert network["mac"] in said
    # A client of the guest's own is told the same address.
    assert f"lease of {network['address']} obtained" in said
    assert network["address"] != host.inspect("right")["record"]["network"]["address"]
    shown = check_inn(host.inn, "inspect", "left")
    assert all(
        text in shown
        for text in (network["address"], network["mac"], network["interface"], f":{_HTTP}:80/tcp")
    )
    assert check_inn(host.inn, "wait", "--for", "network", "left") == "running\n"


def test_guests_do_not_reach_each_other(host: NetworkHost, machines: tuple[str, str]) -> None:
    left = host.inspect("left")["record"]["network"]["address"]
    in_guest(host, "left", "nc -ll -p 4000 -e echo reached >/dev/null 2>&1 &")
    # The host reaches it, so the silence below is the rule's doing.
    reach = f"import socket; print(socket.create_connection(('{left}', 4000), 20).recv(9))"
    assert "reached" in host.inside.run(sys.executable, "-c", reach)
    said = in_guest(host, "right", f"ping -c 1 -W 1 {left}; nc -w 2 {left} 4000 </dev/null; true")
    assert "100% packet loss" in said
    assert "reached" not in said
    # Nor does what is outside, though it has a route.
    host.outside.ip(f"route replace {left}/32 via {HOST}")
    with pytest.raises(AssertionError, match="TimeoutError"):
        host.outside.run(sys.executable, "-c", reach.replace("20", "1"))


def unheard_datagrams(host: NetworkHost, name: str) -> int:
    """Datagrams to ports on which nobody listens: NoPorts, the second number (RFC 2013)."""
    return int(in_guest(host, name, "grep ^Udp: /proc/net/snmp").splitlines()[1].split()[2])


def test_published_ports_of_a_tap(
    host: NetworkHost, machines: tuple[str, str], eventually: Eventually
) -> None:
    serve = "mkdir -p /www; echo hello > /www/index.html; httpd -h /www -p 80"
    in_guest(host, "left", serve)
    assert "hello" in host.inside.run(sys.executable, "-c", _GET)
    # The image has no UDP server; its kernel counts what comes for nobody. (The way
    # back is in the unit test of the same code.)
    before = unheard_datagrams(host, "left")
    host.inside.run(sys.executable, "-c", _SEND_UDP)
    # Not all of them: "port unreachable" comes back as the error of a later send.
    eventually(lambda: unheard_datagrams(host, "left") > before)
    taken = host.inn("run", "--network", "tap", "-p", f"{_HTTP}:80", "--", "true")
    assert taken.code == 125
    assert f"port {_HTTP}/tcp of 127.0.0.1 cannot be published" in taken.error
    # Both networks of the pool are in use.
    full = host.inn("run", "--network", "tap", "--", "true")
    assert full.code == 125
    assert "no network of 10.99.0.0/29 is free on this host" in full.error
    assert sorted(host.leftovers()[0]) == ["inn-0a630000", "inn-0a630004"]


def test_forwards_are_on_both_loopbacks_and_shown(
    host: NetworkHost, machines: tuple[str, str], eventually: Eventually
) -> None:
    serve = "mkdir -p /www; echo hi > /www/index.html; httpd -h /www -p 127.0.0.1:8123"
    in_guest(host, "right", serve)
    eventually(lambda: host.inspect("right")["record"]["forwards"] == {"8123": 8123})
    assert "localhost:8123 leads to its port 8123" in check_inn(host.inn, "inspect", "right")
    for address in ("127.0.0.1", "::1"):
        reach = (
            f"import socket; s = socket.create_connection(('{address}', 8123), 20)\n"
            "s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n'); print(s.recv(9999))"
        )
        assert "200 OK" in host.inside.run(sys.executable, "-c", reach)


def test_a_name_server_that_ends_is_started_again(
    host: NetworkHost, machines: tuple[str, str], eventually: Eventually
) -> None:
    tap = host.inspect("left")["record"]["network"]["interface"]
    (pid,) = name_servers(tap)
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: name_servers(tap) not in ([], [pid]))
    ask = "for i in 1 2 3 4 5; do nslookup name.test && break; sleep 1; done"
    assert "Name:\tname.test" in in_guest(host, "left", ask)


def test_a_guest_follows_the_hosts_name_servers(
    host: NetworkHost, machines: tuple[str, str], eventually: Eventually
) -> None:
    # Each look takes a second here; `within` is the guest's own clock, as of row 41.
    host.set_resolv(OTHER_DNS, "two.test")
    followed = in_guest(
        host,
        "right",
        "left=25; while [ $left -gt 0 ]; do left=$((left - 1));\n"
        'grep -q "search two.test" /etc/resolv.conf && nslookup name.test | grep 198.51.100.2'
        " && break\nsleep 0.2; done; ls -A /etc | grep resolv",
    )
    assert "198.51.100.2" in followed
    # Written beside it and renamed: nothing is left beside it.
    assert followed.endswith("resolv.conf\n")
    assert followed.count("resolv.conf") == 1


def test_nothing_is_left_of_a_network(
    host: NetworkHost, machines: tuple[str, str], eventually: Eventually
) -> None:
    before = host.inspect("left")["record"]["network"]
    assert check_inn(host.inn, "stop", "left") == "left\n"
    right = host.inspect("right")["record"]
    taps, tables = host.leftovers()
    assert taps == [right["network"]["interface"]]
    assert tables == [taps[0].replace("-", "_")]
    # A killed keeper takes QEMU, interface and dnsmasq with it; a later `inn`, the rules.
    os.kill(right["keeper_pid"], signal.SIGKILL)
    eventually(lambda: not alive(right["qemu_pid"]) and host.leftovers()[0] == [])
    check_inn(host.inn, "start", "left")
    again = host.inspect("left")["record"]["network"]
    assert again["mac"] == before["mac"]
    assert host.leftovers() == ([again["interface"]], [again["interface"].replace("-", "_")])
    check_inn(host.inn, "stop", "left")
    host.inn("stop", "right")
    assert host.leftovers() == ([], [])
    assert not name_servers()


def name_servers(tap: str = "inn-0a6300") -> list[int]:
    """The processes that serve a guest's tap, or all of the pool's."""
    found = []
    wanted = f"--interface={tap}".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            # Before the exec it is setpriv, with the same words.
            if words[0].endswith(b"dnsmasq") and any(word.startswith(wanted) for word in words):
                found.append(int(path.parent.name))
    return found


def test_a_guest_on_a_bridge(host: NetworkHost) -> None:
    missing = host.inn("run", "--network", "bridge=br7", "--", "true")
    assert missing.code == 2
    assert "unknown bridge 'br7'" in missing.error
    host.inside.ip(
        "link add br7 type bridge", "address add 10.77.0.1/24 dev br7", "link set br7 up"
    )
    server = host.inside.serve(
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--interface=br7"),
        *("--except-interface=lo", "--bind-interfaces", "--leasefile-ro", "--no-ping"),
        *(
            "--dhcp-range=10.77.0.50,10.77.0.90,255.255.255.0",
            "--dhcp-option=option:domain-name,lan.test",
        ),
        ready=b"started, version",
    )
    try:
        check_inn(host.inn, "create", "bridged", "--network", "bridge=br7")
        check_inn(host.inn, "start", "bridged")
        said = in_guest(
            host, "bridged", "ping -c 1 -W 5 10.77.0.1; cat /etc/resolv.conf; pidof udhcpc; ip addr"
        )
        network = host.inspect("bridged")["record"]["network"]
        assert " 0% packet loss" in said
        assert "search lan.test\nnameserver 10.77.0.1\n" in said
        assert network["address"].startswith("10.77.0.")
        assert f"inet {network['address']}/24" in said
        assert (network["gateway"], network["netmask"]) == ("10.77.0.1", "255.255.255.0")
        links = json.loads(host.inside.run("ip", "-json", "link", "show", "master", "br7"))
        assert [link["ifname"] for link in links] == [network["interface"]]
    finally:
        host.inn("rm", "-f", "bridged")
        host.inside.end(server)
    assert host.leftovers() == ([], [])


def test_without_the_right_a_tap_is_refused_at_once(inn: Inn, runtime_dir: Path) -> None:
    argv = [*INN, "run", "--network", "tap", "--", "true"]
    if os.geteuid() == 0:
        argv = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--", *argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 125
    assert "--network tap needs the capability CAP_NET_ADMIN" in done.stderr
    assert "--network user" in done.stderr

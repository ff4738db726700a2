# SPDX-License-Identifier: Apache-2.0
"""Tap networks by value: addresses, rules, the DHCP server, and what a guest answers."""

from __future__ import annotations

from ipaddress import IPv4Network
from itertools import islice

import pytest

from innkeeper.errors import UsageError
from innkeeper.networks.lease import Lease, lease_script, parse_lease
from innkeeper.networks.plan import (
    DEFAULT_POOLS,
    confine,
    drop_rules,
    free_networks,
    networks_in_use,
    parse_pools,
    plan_dnsmasq,
    plan_tap,
    tap_name,
    tap_of_table,
)
from innkeeper.networks.tap import bridge_tap_name

NETWORK = IPv4Network("10.213.0.4/30")
PLAN = plan_tap(NETWORK)


def test_a_tap_is_named_after_its_network() -> None:
    assert tap_name(NETWORK) == "inn-0ad50004"
    assert tap_of_table("inn_0ad50004") == "inn-0ad50004"
    assert tap_of_table("inn_other") is None
    assert tap_of_table("filter") is None
    # IFNAMSIZ is 16 with the final zero.
    assert len(bridge_tap_name("02:11:22:33:44:55")) <= 15


def test_the_plan_of_a_tap() -> None:
    assert (PLAN.host, PLAN.guest, PLAN.netmask) == ("10.213.0.5", "10.213.0.6", "255.255.255.252")
    assert PLAN.ip == (
        "address add 10.213.0.5/30 dev inn-0ad50004",
        "link set dev inn-0ad50004 up",
    )
    assert PLAN.rules == (
        "table inet inn_0ad50004\n"
        "delete table inet inn_0ad50004\n"
        "table inet inn_0ad50004 {\n"
        "  chain forward {\n"
        "    type filter hook forward priority filter; policy accept;\n"
        '    iifname "inn-0ad50004" meta nfproto != ipv4 drop\n'
        '    iifname "inn-0ad50004" ip saddr != 10.213.0.6 drop\n'
        '    oifname "inn-0ad50004" ct state established,related accept\n'
        '    oifname "inn-0ad50004" drop\n'
        "  }\n"
        "  chain postrouting {\n"
        "    type nat hook postrouting priority srcnat; policy accept;\n"
        '    ip saddr 10.213.0.6 oifname != "inn-0ad50004" masquerade\n'
        "  }\n"
        "}\n"
    )
    # Adding it first makes the removal of one that is not there no error.
    assert PLAN.rules.startswith(drop_rules(PLAN.table))


def test_the_dhcp_server_serves_one_guest() -> None:
    argv = plan_dnsmasq(PLAN, mac="02:00:00:00:00:01", hostname="box", program="/usr/sbin/dnsmasq")
    assert argv == (
        "/usr/sbin/dnsmasq",
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--interface=inn-0ad50004",
        "--except-interface=lo",
        "--bind-interfaces",
        "--dhcp-range=10.213.0.6,10.213.0.6,255.255.255.252,1h",
        "--dhcp-host=02:00:00:00:00:01,10.213.0.6,box",
        "--dhcp-authoritative",
        "--leasefile-ro",
        "--no-ping",
        "--quiet-dhcp",
        "--bogus-priv",
        "--cache-size=150",
    )
    confined = confine(argv, setpriv="/usr/bin/setpriv", drop_user=True)
    assert confined[:4] == (
        "/usr/bin/setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    )
    assert "--pdeathsig=KILL" in confined
    assert confined[-len(argv) :] == argv
    assert "--reuid=65534" not in confine(argv, setpriv="setpriv", drop_user=False)


def test_networks_avoid_what_the_host_uses() -> None:
    pools = parse_pools("10.213.0.0/28,172.29.213.0/30")
    everything = [str(network) for network in free_networks(pools, ())]
    assert everything == [
        *("10.213.0.0/30", "10.213.0.4/30", "10.213.0.8/30", "10.213.0.12/30"),
        "172.29.213.0/30",
    ]
    second = [str(network) for network in free_networks(pools, (), first=7)]
    assert second == [*everything[3:4], *everything[:3], everything[4]]
    taken = (IPv4Network("10.213.0.6/32"), IPv4Network("10.213.0.8/29"), IPv4Network("10.9.0.0/16"))
    assert [str(network) for network in free_networks(pools, taken)] == [
        "10.213.0.0/30",
        "172.29.213.0/30",
    ]
    # A route to a larger network takes the whole pool.
    wide = (IPv4Network("10.0.0.0/8"),)
    assert [str(network) for network in free_networks(pools, wide)] == ["172.29.213.0/30"]
    assert next(islice(free_networks(parse_pools(DEFAULT_POOLS), ()), 1, 2)) == NETWORK


def test_what_ip_says_is_in_use() -> None:
    routes: list[dict[str, object]] = [
        {"dst": "default", "gateway": "192.0.2.1"},
        {"dst": "192.0.2.0/24", "dev": "eth0"},
        {"dst": "198.51.100.7"},
        {"type": "blackhole", "dst": "0.0.0.0/0"},
        {},
    ]
    addresses: list[dict[str, object]] = [
        {"ifname": "eth0", "addr_info": [{"family": "inet", "local": "10.1.2.3", "prefixlen": 16}]},
        {"ifname": "lo", "addr_info": [{"family": "inet6", "local": "::1", "prefixlen": 128}]},
        {"ifname": "x"},
    ]
    assert [str(network) for network in networks_in_use(routes, addresses)] == [
        "10.1.0.0/16",
        "192.0.2.0/24",
        "198.51.100.7/32",
    ]


@pytest.mark.parametrize("text", ["", "10.0.0.0", "10.0.0.1/24", "fd00::/64", "10.0.0.0/31"])
def test_pools_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="INN_TAP_POOL"):
        parse_pools(text)


def test_a_lease_is_read_from_what_ip_says_in_the_guest() -> None:
    said = (
        b"2: eth0    inet 10.77.0.66/24 brd 10.77.0.255 scope global eth0\\ valid_lft forever\n"
        b"default via 10.77.0.1 dev eth0 \n"
    )
    assert parse_lease(said) == Lease("10.77.0.66", "255.255.255.0", "10.77.0.1")
    assert parse_lease(said.splitlines()[0]) == Lease("10.77.0.66", "255.255.255.0", "")
    for garbage in (b"", b"inet 999.1.1.1/24", b"inet 10.0.0.1/99", b"\xff\x00inet", said[:8]):
        assert parse_lease(garbage) is None
    assert "udhcpc" in lease_script(own_client=False)
    assert "udhcpc" not in lease_script(own_client=True)

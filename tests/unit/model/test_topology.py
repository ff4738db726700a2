# SPDX-License-Identifier: Apache-2.0
"""Topology files: what they say, and where they are wrong."""

from __future__ import annotations

import pytest

from innkeeper.errors import UsageError
from innkeeper.model.policy import ALL_PORTS
from innkeeper.model.positions import Positions
from innkeeper.model.topology import start_groups
from innkeeper.model.topology_file import parse_topology

SHOP = """\
name = "shop"

[machines.db]
memory = "256M"

[machines.web]
after = ["db"]
wait = "agent"

[machines.cron]
after = ["db", "web"]

[services.postgres]
machine = "db"
port = 5432

[[policy]]
from = "web"
to = "postgres"
log = true

[[policy]]
from = "*"
to = "db"
port = "22,8000-8080"
action = "deny"
operations = ["connect", "send"]
quota = 4

[[policy]]
from = "cron"
to = "*"

[[test]]
from = "web"
to = "postgres"
expect = "allow"
"""


def test_a_topology() -> None:
    shop = parse_topology(SHOP, source="shop.toml")
    assert shop.name == "shop"
    assert shop.order() == (("db",), ("web",), ("cron",))
    assert shop.members["db"].machine.memory_bytes == 256 << 20
    assert (shop.members["web"].wait, shop.members["db"].wait) == ("agent", None)
    first, second, third = shop.policy.rules
    assert (first.destination, first.ports, first.line) == ("db", ((5432, 5432),), 17)
    assert first.log
    assert second.ports == ((22, 22), (8000, 8080))
    assert (second.action, second.quota) == ("deny", 4)
    assert second.operations == ("connect", "send")
    assert (third.number, third.line, third.ports) == (3, 30, ALL_PORTS)
    (expectation,) = shop.expectations
    assert (expectation.destination, expectation.port, expectation.line) == ("db", 5432, 34)


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ('name = "shop"', "", "line 1, column 1", "a topology needs a name"),
        ('name = "shop"', 'name = "Shop!"', "line 1, column 1", "'Shop!' is not a machine name"),
        ('memory = "256M"', "memry = 1", "line 4, column 1", "unknown key"),
        ('memory = "256M"', 'memory = "1M"', "line 4, column 1", "too little"),
        ('memory = "256M"', "cid = 2", "line 4, column 1", "2 is no CID"),
        ('memory = "256M"', 'ports = ["x:1"]', "line 4, column 1", "not a published port"),
        ('after = ["db"]', 'after = ["bd"]', "line 7, column 1", "unknown machine"),
        ('after = ["db"]', 'after = "db"', "line 7, column 1", "no list"),
        ('after = ["db"]', 'after = ["cron"]', "line 7, column 1", "wait for each other"),
        ('wait = "agent"', 'wait = "tea"', "line 8, column 1", "nothing to wait for"),
        ("port = 5432", "port = -1", "line 15, column 1", "-1 is no port"),
        ('machine = "db"', 'machine = "d"', "line 14, column 1", "unknown machine"),
        ('to = "postgres"\nlog', 'to = "postgre"\nlog', "line 19, column 1", "unknown machine or"),
        ("log = true", "port = 1", "line 20, column 1", "has its own port"),
        ("log = true", 'log = "yes"', "line 20, column 1", "neither true nor false"),
        ('"22,8000-8080"', '"22-"', "line 25, column 1", "are no ports"),
        ('"22,8000-8080"', '"30-22"', "line 25, column 1", "are no ports"),
        ('action = "deny"', 'action = "drop"', "line 26, column 1", "'drop' is no action"),
        ('["connect", "send"]', '["conect"]', "line 27, column 1", "unknown operation"),
        ("quota = 4", "quota = 0", "line 28, column 1", "0 is no quota"),
        ("quota = 4", "ring_quota = 101", "line 28, column 1", "101 is no quota"),
        ("quota = 4", "ring_quota = true", "line 28, column 1", "True is no quota"),
        ('name = "shop"', 'name = "shop"\nrings = 1', "line 2, column 1", "rings are no table"),
        (
            'name = "shop"',
            'name = "shop"\n[rings]\nmac_permissive = 1',
            "line 3, column 1",
            "1 is neither true nor false",
        ),
        (
            'name = "shop"',
            'name = "shop"\n[rings]\npermissive = true',
            "line 3, column 1",
            "unknown key",
        ),
        ("quota = 4", "qouta = 4", "line 28, column 1", "unknown key"),
    ],
)
def test_errors_name_their_place(old: str, new: str, place: str, said: str) -> None:
    text = SHOP.replace(old, new, 1)
    assert text != SHOP
    with pytest.raises(UsageError) as caught:
        parse_topology(text, source="shop.toml")
    told = caught.value.brief
    assert said in told
    where = place if new else "line 1, column 1"
    assert f"shop.toml, {where}" in told


def test_the_nearest_name_is_told() -> None:
    with pytest.raises(UsageError) as caught:
        parse_topology(SHOP.replace("quota", "qouta"), source="shop.toml")
    assert "did you mean 'quota'?" in caught.value.fix


def test_toml_that_is_none_is_told_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"line 2, column \d+"):
        parse_topology('name = "x"\n= 3\n', source="shop.toml")


def test_places_of_tables_and_keys() -> None:
    places = Positions(
        'a = """\n[no]\nb = 1\n"""\n  [ one . two ]\n"k" = 1\n[[l]]\n[[l]]\n  x.y = 2\n'
    )
    assert places.place("", "a") == "line 1, column 1"
    assert places.table("one.two") == 5
    assert places.place("one.two", "k") == "line 6, column 1"
    assert places.place("l.1", "x") == "line 9, column 3"
    assert places.table("no") == 1


HOSTED = """\
name = "hosted"

[machines.web]
shares = ["site:/srv/site", "/abs:/abs:ro"]

[services.printer]
host = "tcp:127.0.0.1:631"
port = 631

[services.db]
host = "unix:run/db.sock"
port = 5432

[[policy]]
from = "web"
to = "db"

[[policy]]
from = "host"
to = "web"
operations = ["send"]

[[test]]
from = "web"
to = "printer"
expect = "deny"
"""


def test_services_of_the_host_and_paths_relative_to_the_file() -> None:
    hosted = parse_topology(HOSTED, source="hosted.toml", folder="/home/me/lab")
    assert [str(share) for share in hosted.members["web"].machine.shares] == [
        "/home/me/lab/site:/srv/site",
        "/abs:/abs:ro",
    ]
    targets = {port: one.target for port, one in hosted.host_services().items()}
    assert targets == {631: "tcp:127.0.0.1:631", 5432: "unix:/home/me/lab/run/db.sock"}
    first, second = hosted.policy.rules
    assert (first.source, first.destination, first.ports) == ("web", "host", ((5432, 5432),))
    assert (second.source, second.destination) == ("host", "web")
    assert hosted.expectations[0].destination == "host"


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        ("machines.web]", "machines.host]", "line 3, column 1", "'host' is the host's own name"),
        ("services.db]", "services.host]", "line 10, column 1", "'host' is a machine's name"),
        ("port = 631", "port = 7777", "line 8, column 1", "innkeeper's own, for the announcement"),
        ("port = 631", "port = 5432", "line 12, column 1", "port 5432 of the host is 'printer'"),
        ("tcp:127.0.0.1:631", "tcp:127.0.0.1", "line 7, column 1", "nothing that a service"),
        ("tcp:127.0.0.1:631", "tcp:here:631", "line 7, column 1", "'here' is no inet address"),
        ("unix:run/db.sock", "udp:run", "line 11, column 1", "nothing that a service leads to"),
        ("unix:run", f"unix:{'x' * 99}", "line 11, column 1", "too long for a socket"),
        ("port = 631", 'port = 631\nmachine = "web"', "line 9, column 1", "or of the host"),
        ('to = "db"', 'to = "hots"', "line 16, column 1", "unknown machine or service"),
    ],
)
def test_errors_of_host_services(old: str, new: str, place: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_topology(HOSTED.replace(old, new, 1), source="hosted.toml", folder="/home/me/lab")
    assert said in caught.value.brief
    assert f"hosted.toml, {place}" in caught.value.brief


def test_more_names_than_guests_take_are_refused() -> None:
    many = "".join(f"[services.s{n}]\nmachine = 'a'\nport = 1\n" for n in range(500))
    with pytest.raises(UsageError, match="more than 500 machines and services"):
        parse_topology(f"name = 'x'\n[machines.a]\n{many}", source="x.toml")


def test_what_waits_for_each_other_is_in_no_group() -> None:
    assert start_groups({"b": ["a"], "a": [], "c": ["d"], "d": ["c", "a"]}) == (
        (("a",), ("b",)),
        ("c", "d"),
    )


def test_rings_of_a_topology() -> None:
    plain = parse_topology(SHOP, source="shop.toml")
    assert not plain.mac_permissive
    assert [rule.ring_quota for rule in plain.policy.rules] == [50, 50, 50]
    text = SHOP.replace("quota = 4", "ring_quota = 20")
    told = text.replace("[services", "[rings]\nmac_permissive = true\n\n[services", 1)
    found = parse_topology(told, source="shop.toml")
    assert found.mac_permissive
    assert [rule.ring_quota for rule in found.policy.rules] == [50, 20, 50]

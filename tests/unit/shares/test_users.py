# SPDX-License-Identifier: Apache-2.0
"""Whom a guest's users are on the host, by value."""

from __future__ import annotations

import pytest

from innkeeper.errors import HostError, UsageError
from innkeeper.model.share import ServerUsers, Share, parse_share
from innkeeper.shares.plan import share_word
from innkeeper.shares.users import HostIds, map_words, plan_users, users_told, users_word

ROOT = HostIds(uid=0, gid=0, user="root")
ALONE = HostIds(uid=1234, gid=100, user="me")
SPARE = ((100000, 65536),)
RICH = HostIds(uid=1234, gid=100, user="me", subuids=SPARE, subgids=SPARE, tools="/usr/bin")


def shares(*options: str) -> tuple[Share, ...]:
    """A share for each; "" has none."""
    return tuple(
        parse_share(f"/x:/{number}{':' if text else ''}{text}")
        for number, text in enumerate(options)
    )


def test_root_maps_each_share_on_its_own_mount() -> None:
    plain, mapped, groups = shares("", "uid=1000-1234,gid=1000-50-2", "ro,gid=0-70")
    users = plan_users((plain, mapped, groups), ROOT)
    assert users == ServerUsers()
    assert users_word(users) == "host;uid=0;gid=0"
    assert share_word(plain, users) == f"{plain.key}=rw=/x"
    # The file system's ids first; the guest's root stays root where nobody says otherwise.
    words = ";uids=0-0-1+1234-1000-1;gids=0-0-1+50-1000-2"
    assert share_word(mapped, users) == f"{mapped.key}=rw{words}=/x"
    assert share_word(groups, users) == f"{groups.key}=ro;uids=0-0-4294967295;gids=70-0-1=/x"
    assert users_told(users) == ""


def test_the_guests_root_has_to_be_somebody() -> None:
    with pytest.raises(UsageError, match="the guest's uid 0 is nobody") as caught:
        plan_users(shares("uid=1000-0"), ROOT)
    assert "uid=0-HOST" in caught.value.fix
    (share,) = shares("uid=1000-0,uid=0-1")
    assert map_words(share) == ";uids=0-1000-1+1-0-1;gids=0-0-4294967295"
    # "who shares" is a number of the host too.
    with pytest.raises(UsageError, match="overlap on the host"):
        plan_users(shares("uid=1000,uid=5-0"), ROOT)


def test_squash_by_root_is_a_server_that_stays_that_user() -> None:
    mapped = shares("id=1000-1234,squash", "uid=1000-7,gid=1000-8,squash")
    users = plan_users(mapped, ROOT)
    assert users == ServerUsers(uid=1000, gid=1000, squash=True)
    assert users_word(users) == "host;uid=1000;gid=1000;squash"
    assert not users.gives_away
    assert map_words(mapped[1]) == ";uids=7-1000-1;gids=8-1000-1"
    assert map_words(*shares("squash")) == ";uids=0-0-1;gids=0-0-1"
    for others in (("id=1000-1234,squash", ""), ("id=1000,squash", "id=1001,squash")):
        with pytest.raises(UsageError, match="do not agree on who all of its users are"):
            plan_users(shares(*others), ROOT)


def test_a_user_alone_is_the_guests_root() -> None:
    for given in ((), shares("", ""), shares("id=0"), shares("uid=0-1234", "uid=0-1234")):
        users = plan_users(given, ALONE)
        assert users_word(users) == "user;uid=0;gid=0;uids=0-1234-1;gids=0-100-1"
        assert not users.gives_away
        assert users_told(users) == (
            "the guest's uid 0 is 1234; the guest's gid 0 is 100; others are nobody"
        )


def test_a_user_with_spare_ids_has_other_users() -> None:
    users = plan_users(shares(""), RICH)
    assert users.uid_map == ((0, 1234, 1), (1, 100000, 65536))
    assert users.gid_map == ((0, 100, 1), (1, 100000, 65536))
    assert (users.tools, users.must, users.gives_away) == ("/usr/bin", False, True)
    assert users_word(users).endswith(";gids=0-100-1+1-100000-65536;tools=/usr/bin")
    assert "1-65536 is 100000-165535" in users_told(users)
    users = plan_users(shares("id=1000"), RICH)
    assert users.uid_map == ((0, 100000, 1000), (1000, 1234, 1), (1001, 101000, 64536))
    assert users.gid_map[1] == (1000, 100, 1)
    assert users_word(users).endswith(";tools=/usr/bin;must")
    # A map's share itself says nothing: the namespace does.
    assert share_word(shares("id=1000")[0], users).endswith("=rw=/x")
    users = plan_users(shares("uid=1000-100005-2"), RICH)
    assert users.uid_map[:2] == ((0, 1234, 1), (1, 100000, 5))


def test_a_user_squashes_without_any_spare_ids() -> None:
    for ids in (ALONE, RICH):
        users = plan_users(shares("id=1000,squash", "id=1000,squash"), ids)
        expected = "user;uid=1000;gid=1000;uids=1000-1234-1;gids=1000-100-1;squash"
        assert users_word(users) == expected
        assert not users.gives_away
        assert users_told(users).endswith("all others the same")


def test_a_user_is_refused_what_is_not_his() -> None:
    for text in ("uid=1000-0", "gid=1000-165536", "uid=5-165535-2", "uid=5-1233-2"):
        with pytest.raises(HostError, match="not me's to share with") as caught:
            plan_users(shares(text), RICH)
        assert "100000-165535" in caught.value.evidence[0]
    with pytest.raises(HostError, match="uid 1 of the host is not"):
        plan_users(shares("uid=1000-1,squash"), ALONE)
    with pytest.raises(HostError, match="takes ids beside me's own") as lacking:
        plan_users(shares("id=1000"), ALONE)
    assert "usermod --add-subuids" in lacking.value.fix
    assert "squash" in lacking.value.fix
    with pytest.raises(UsageError, match="/0 and /1 have different maps"):
        plan_users(shares("id=1000", ""), RICH)

# SPDX-License-Identifier: Apache-2.0
"""Maps of users as people write them, and what is made of them."""

from __future__ import annotations

import pytest

from innkeeper.errors import UsageError
from innkeeper.model.idmap import (
    ID_END,
    RANGES_MAXIMUM,
    IdRange,
    fill,
    parse_range,
    subordinate_ranges,
)
from innkeeper.model.share import Share, make_share, parse_share

BOTH = (IdRange(guest=1000, host=1234),)


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("1000", IdRange(guest=1000)),
        ("1000-1234", IdRange(guest=1000, host=1234)),
        ("0:100000:65536", IdRange(guest=0, host=100000, count=65536)),
        (f"0-0-{ID_END}", IdRange(guest=0, host=0, count=ID_END)),
    ],
)
def test_a_range_is_two_or_three_numbers(text: str, made: IdRange) -> None:
    assert parse_range(text) == made
    assert parse_range(str(made)) == made


@pytest.mark.parametrize(
    "text",
    [
        *("", "x", "1-", "-1", "1-2-0", "1-2-3-4", "1 -2", "٣", "1-2-x", "9" * 5000),
        *(f"{ID_END}", f"0-{ID_END}", f"1-0-{ID_END}", f"0-1-{ID_END}"),
    ],
)
def test_what_is_no_range_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_range(text)
    assert "uid=1000-1234" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("/a:/b:id=1000-1234", Share(host="/a", guest="/b", uid_map=BOTH, gid_map=BOTH)),
        ("/a:/b:uid=1000-1234", Share(host="/a", guest="/b", uid_map=BOTH)),
        (
            "/a:/b:ro,gid=1000-1234,squash",
            Share(host="/a", guest="/b", read_only=True, gid_map=BOTH, squash=True),
        ),
        (
            "/a:x:/b:uid=0-5,uid=7-8-9,gid=1",
            make_share("/a:x", "/b", uid_map=("0:5", "7:8:9"), gid_map=("1",)),
        ),
        ("/a:/b:squash", Share(host="/a", guest="/b", squash=True)),
    ],
)
def test_maps_are_options_of_a_share(text: str, share: Share) -> None:
    assert parse_share(text) == share
    assert parse_share(str(share)) == share


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("uids=1", "unknown option of a share 'uids=1'"),
        ("uid", "unknown option of a share 'uid'"),
        ("squash=1", "unknown option"),
        ("ro=1", "unknown option"),
        ("ro,", "unknown option of a share ''"),
        ("ro,rw", "both ro and rw"),
        ("uid=1-5-10,uid=10-100", "uid 1-5-10 and 10-100 overlap on the guest"),
        ("id=1-5-10,id=20-14", "uid 1-5-10 and 20-14 overlap on the host"),
        ("gid=1,gid=2", "gid 1 and 2 overlap on the host"),
        ("id=1-5-2,squash", "squash makes all"),
        ("id=1-5,id=2-6,squash", "squash makes all"),
        (",".join(f"uid={n}-{n}" for n in range(RANGES_MAXIMUM + 1)), "33 ranges of uid"),
    ],
)
def test_maps_that_make_no_sense_are_refused(options: str, said: str) -> None:
    with pytest.raises(UsageError, match=said.replace("(", r"\(")):
        parse_share(f"/a:/b:{options}")


def test_spare_ids_fill_what_is_free() -> None:
    # First the guest's root, then everybody up to the one who is taken, then the others.
    assert fill(((1000, 1234, 1),), [(100000, 65536)]) == (
        *((0, 100000, 1000), (1000, 1234, 1), (1001, 101000, 64536)),
    )
    # Spare ids that are taken already are no more spare, in the order of their lines.
    assert fill(((0, 1234, 1), (5, 100002, 2)), [(100000, 8), (300000, 2)]) == (
        *((0, 1234, 1), (1, 100000, 2), (3, 100004, 2), (5, 100002, 2), (7, 100006, 2)),
        (9, 300000, 2),
    )
    assert fill(((0, 0, 1),), []) == ((0, 0, 1),)


def test_subordinate_ids_are_the_users_by_name_or_number() -> None:
    table = "me:100000:65536\nyou:200000:65536\n1000:300000:10 \n# me:1:2\nme:x:1\nme:1\n"
    assert subordinate_ranges(table, "me", 1000) == ((100000, 65536), (300000, 10))
    assert subordinate_ranges(table, "nobody", 65534) == ()

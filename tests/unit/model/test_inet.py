# SPDX-License-Identifier: Apache-2.0
"""CIDs as inet addresses."""

from __future__ import annotations

import pytest

from innkeeper.model.inet import HOST_CID, inet_addresses, inet_cid


@pytest.mark.parametrize(
    ("cid", "addresses"),
    [
        (HOST_CID, ("240.0.0.2", "fd69:6e6e:6b70::2")),
        (1024, ("240.0.4.0", "fd69:6e6e:6b70::400")),
        (2**24 - 1, ("240.255.255.255", "fd69:6e6e:6b70::ff:ffff")),
        (2**24, ("fd69:6e6e:6b70::100:0",)),
        (2**32 - 2, ("fd69:6e6e:6b70::ffff:fffe",)),
    ],
)
def test_there_and_back(cid: int, addresses: tuple[str, ...]) -> None:
    assert inet_addresses(cid) == addresses
    assert {inet_cid(address) for address in addresses} == {cid}


@pytest.mark.parametrize(
    "address", ["", "web.inn", "127.0.0.1", "241.0.0.2", "fd69:6e6e:6b70::1:0:2", "::2", "240.0.2"]
)
def test_others_mean_no_guest(address: str) -> None:
    assert inet_cid(address) is None

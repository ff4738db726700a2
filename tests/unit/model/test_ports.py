# SPDX-License-Identifier: Apache-2.0
"""Published ports as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.errors import UsageError
from innkeeper.model.ports import parse_port


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("8080:80", "127.0.0.1:8080:80/tcp"),
        ("127.0.0.1:8080:80/udp", "127.0.0.1:8080:80/udp"),
        ("0.0.0.0:1:65535/tcp", "0.0.0.0:1:65535/tcp"),
    ],
)
def test_published_ports(text: str, shown: str) -> None:
    assert str(parse_port(text)) == shown


@given(st.text(alphabet="0123456789:./tcpud ", max_size=24))
def test_any_other_text_is_refused_or_reads_back(text: str) -> None:
    try:
        port = parse_port(text)
    except UsageError:
        return
    assert parse_port(str(port)) == port


@pytest.mark.parametrize(
    "text",
    ["", "80", "a:80", "0:80", "80:0", "65536:1", "1:2/sctp", "1:2/", "1.2.3:1:2", "::1:1:2"],
)
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a published port"):
        parse_port(text)

# SPDX-License-Identifier: Apache-2.0
"""The host's search list, read and followed."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from innkeeper.keeper.resolv import ResolvFollower, read_search_domains, search_domains


def test_the_search_list_of_a_resolv_conf(tmp_path: Path) -> None:
    assert search_domains("nameserver 1.1.1.1\nsearch a.test b.test # c\n") == ("a.test", "b.test")
    assert search_domains("search a\ndomain b.test\n") == ("b.test",)
    assert search_domains("search a$(x) ok.test\n") == ("ok.test",)
    assert len(search_domains("search " + " ".join(f"d{n}" for n in range(20)))) == 6
    assert read_search_domains(tmp_path / "none") == ()


@pytest.mark.parametrize("linked", [False, True])
def test_a_change_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linked: bool
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "run").mkdir()
    path = tmp_path / "etc" / "resolv.conf"
    file = tmp_path / "run" / "stub.conf" if linked else path
    file.write_text("search a.test\n")
    if linked:
        path.symlink_to(file)
    told: list[tuple[str, ...]] = []
    heard = threading.Event()

    def tell(_self: ResolvFollower, domains: tuple[str, ...]) -> None:
        told.append(domains)
        heard.set()

    monkeypatch.setattr(ResolvFollower, "_tell", tell)

    async def play() -> None:
        follower = ResolvFollower(tmp_path / "agent", "10.0.0.1", ("a.test",), path=path)
        try:
            for text in ("search b.test\n", "# nothing new\nsearch b.test\n", "search c.test\n"):
                new = file.with_name("new")
                new.write_text(text)
                new.replace(file)
                if "#" not in text:
                    assert await asyncio.to_thread(heard.wait, 5)
                    heard.clear()
        finally:
            await follower.close()

    asyncio.run(asyncio.wait_for(play(), 10))
    assert told == [("b.test",), ("c.test",)]

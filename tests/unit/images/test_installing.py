# SPDX-License-Identifier: Apache-2.0
"""Fetching bundles from a server that knows ranges, one that breaks off, and one that lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from stand_ins import ROOT, Server

from innkeeper.errors import HostError, ImageError, UsageError
from innkeeper.images.bundles import (
    bundle_names,
    find_bundle,
    verify_bundle,
)
from innkeeper.images.installing import export_bundle, install_bundle
from innkeeper.images.making import PARTS
from innkeeper.images.phases import Phases
from innkeeper.model.bundle import Bundle


@pytest.fixture
def server(exported: Path) -> Iterator[Server]:
    server = Server(exported.parent)
    yield server
    server.close()


def install(images: Path, source: str | Path, **options: object) -> tuple[Bundle, bool]:
    values: dict[str, object] = {"name": None, "digest": None, "force": False, **options}
    return install_bundle(
        images,
        str(source),
        phases=Phases(lambda _line: None),
        **values,  # type: ignore[arg-type]
    )


def test_a_folder_is_installed_and_not_again(tmp_path: Path, exported: Path) -> None:
    images = tmp_path / "images"
    bundle, new = install(images, exported, name="mine")
    assert (bundle.name, new) == ("mine", True)
    assert verify_bundle(images, "mine") == []
    assert install(images, exported, name="mine")[1] is False
    assert list((images / PARTS).iterdir()) == []


def test_the_second_install_asks_the_server_nothing(tmp_path: Path, server: Server) -> None:
    images = tmp_path / "images"
    assert install(images, f"{server.address}/box")[1] is True
    assert sorted(path for path, _ in server.log) == [
        "/box/bundle.json",
        "/box/root.erofs",
        "/box/vmlinuz",
    ]
    server.log.clear()
    assert install(images, f"{server.address}/box/bundle.json")[1] is False
    assert server.log == []
    assert install(images, f"{server.address}/box", force=True)[1] is False
    assert server.log == [("/box/bundle.json", "")]


def test_a_stored_bundle_needs_no_server(tmp_path: Path, exported: Path) -> None:
    server = Server(exported.parent)
    images = tmp_path / "images"
    try:
        install(images, f"{server.address}/box")
    finally:
        server.close()
    assert install(images, f"{server.address}/box")[1] is False
    assert find_bundle(images, "box")[0].name == "box"
    with pytest.raises(HostError, match="cannot fetch"):
        install(images, f"{server.address}/box", force=True)


def test_an_interrupted_transfer_goes_on(tmp_path: Path, server: Server) -> None:
    images = tmp_path / "images"
    # It breaks off, then brings nothing: the command fails, and the next one goes on.
    server.break_at = [700_000, 700_000]
    with pytest.raises(HostError):
        install(images, f"{server.address}/box")
    assert bundle_names(images) == ()
    (part,) = (images / PARTS).iterdir()
    assert part.read_bytes() == ROOT[:700_000]
    server.log.clear()
    assert install(images, f"{server.address}/box")[1] is True
    assert ("/box/root.erofs", "bytes=700000-") in server.log
    assert verify_bundle(images, "box") == []


def test_a_connection_that_breaks_off_is_made_again(tmp_path: Path, server: Server) -> None:
    server.break_at = [100_000, 900_000]
    assert install(tmp_path / "images", f"{server.address}/box")[1] is True
    ranges = [wanted for path, wanted in server.log if path == "/box/root.erofs"]
    assert ranges == ["", "bytes=100000-", "bytes=900000-"]


def test_a_server_without_ranges_begins_again(tmp_path: Path, server: Server) -> None:
    server.ranges = False
    server.break_at = [100_000]
    assert install(tmp_path / "images", f"{server.address}/box")[1] is True
    assert verify_bundle(tmp_path / "images", "box") == []


def test_a_flipped_byte_is_refused_by_file_name(
    tmp_path: Path, server: Server, exported: Path
) -> None:
    damaged = bytearray(ROOT)
    damaged[12345] ^= 1
    (exported / "root.erofs").chmod(0o644)
    (exported / "root.erofs").write_bytes(damaged)
    for source in (f"{server.address}/box", str(exported)):
        with pytest.raises(ImageError, match=r"root\.erofs from .* is damaged"):
            install(tmp_path / "images", source)
        assert bundle_names(tmp_path / "images") == ()
        assert list((tmp_path / "images" / PARTS).glob("*.part")) == []


def test_what_is_not_there_is_told(tmp_path: Path, server: Server) -> None:
    with pytest.raises(HostError, match="404"):
        install(tmp_path / "images", f"{server.address}/other")
    with pytest.raises(UsageError, match="no folder"):
        install(tmp_path / "images", tmp_path / "nowhere")
    with pytest.raises(UsageError):
        install(tmp_path / "images", "ftp://x/y")


def test_a_wrong_digest_is_refused_before_anything_is_fetched(
    tmp_path: Path, server: Server
) -> None:
    with pytest.raises(ImageError, match="digest that was asked for"):
        install(tmp_path / "images", f"{server.address}/box", digest="0" * 64)
    assert [path for path, _ in server.log] == ["/box/bundle.json"]
    bundle, _ = install(tmp_path / "images", f"{server.address}/box")
    assert install(tmp_path / "images", f"{server.address}/box", digest=bundle.digest[:16])


def test_a_bundle_for_another_machine_is_refused_before_anything_is_fetched(
    tmp_path: Path, server: Server, exported: Path
) -> None:
    manifest = exported / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"x86_64"', '"aarch64"'))
    with pytest.raises(ImageError, match="box is for aarch64"):
        install(tmp_path / "images", f"{server.address}/box")
    assert [path for path, _ in server.log] == ["/box/bundle.json"]


def test_a_server_that_lies_about_lengths(tmp_path: Path, server: Server, exported: Path) -> None:
    images = tmp_path / "images"
    root = exported / "root.erofs"
    root.chmod(0o644)
    # Less than the manifest says, with a Content-Length that agrees: it never gets more.
    root.write_bytes(ROOT[:5000])
    with pytest.raises(HostError, match="ended early") as caught:
        install(images, f"{server.address}/box")
    assert caught.value.evidence == (f"5000 of {len(ROOT)} bytes are there",)
    root.write_bytes(ROOT + b"more")
    with pytest.raises(HostError, match="has more than"):
        install(images, f"{server.address}/box")
    # Another file of the same length.
    root.write_bytes(bytes(len(ROOT)))
    with pytest.raises(ImageError, match=r"root\.erofs from .* is damaged"):
        install(images, f"{server.address}/box")
    assert bundle_names(images) == ()
    root.write_bytes(ROOT)
    assert install(images, f"{server.address}/box")[1] is True
    assert verify_bundle(images, "box") == []


def test_a_part_that_is_of_another_file_does_not_count(tmp_path: Path, server: Server) -> None:
    images = tmp_path / "images"
    server.break_at = [700_000, 700_000]
    with pytest.raises(HostError):
        install(images, f"{server.address}/box")
    (part,) = (images / PARTS).iterdir()
    part.write_bytes(bytes(600_000))
    server.log.clear()
    assert install(images, f"{server.address}/box")[1] is True
    ranges = [wanted for path, wanted in server.log if path == "/box/root.erofs"]
    assert ranges == ["bytes=600000-", ""]
    assert verify_bundle(images, "box") == []


def test_a_server_that_sends_other_things(tmp_path: Path, server: Server, exported: Path) -> None:
    images = tmp_path / "images"
    for text in (b"<html>log in</html>", b"{}", b"", b"{" * 100_000):
        (exported / "bundle.json").write_bytes(text)
        with pytest.raises(ImageError, match=r"bundle\.json is damaged"):
            install(images, f"{server.address}/box")
    assert bundle_names(images) == ()


def test_an_export_does_not_write_over_anything(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(UsageError, match="there already"):
        export_bundle(tmp_path / "made", "box", exported)

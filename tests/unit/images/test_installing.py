# SPDX-License-Identifier: Apache-2.0
"""Fetching bundles from a server that knows ranges, one that breaks off, and one that lies."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from innkeeper.errors import HostError, ImageError, UsageError
from innkeeper.images.bundles import (
    PARTS,
    building,
    bundle_names,
    find_bundle,
    finish_bundle,
    place_bundle,
    verify_bundle,
)
from innkeeper.images.installing import export_bundle, install_bundle
from innkeeper.images.phases import Phases
from innkeeper.model.bundle import Bundle, StoredKernel

ROOT = bytes(range(256)) * 8000


class Server:
    """A web server of one folder.

    :ivar log: the path and range of every request.
    :ivar break_at: after how many bytes of a body the connection ends, once for each entry.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log: list[tuple[str, str]] = []
        self.break_at: list[int] = []
        self.ranges = True
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self)

            def log_message(self, *_args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_port}"
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,))
        self.thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        self.log.append((request.path, wanted))
        path = self.folder / request.path.lstrip("/")
        if not path.is_file():
            request.send_error(404)
            return
        data = path.read_bytes()
        match = re.fullmatch(r"bytes=(\d+)-", wanted)
        start = int(match[1]) if match and self.ranges else 0
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(data) - start))
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        request.end_headers()
        end = len(data)
        if self.break_at and path.name.startswith("root"):
            end = self.break_at.pop(0)
            request.close_connection = True
        request.wfile.write(data[start:end])

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    images = tmp_path / "made"
    with building(images) as folder:
        (folder / "vmlinuz").write_bytes(b"kernel" * 100)
        (folder / "root.erofs").write_bytes(ROOT)
        kernels = (StoredKernel(flavour="cloud", release="6.1.0", file="vmlinuz"),)
        bundle = Bundle(name="box", digest="", kernels=kernels, root="root.erofs", files=())
        bundle = finish_bundle(folder, bundle, ["vmlinuz", "root.erofs"])
        place_bundle(images, folder, bundle, force=False)
    export_bundle(images, "box", tmp_path / "served" / "box")
    return tmp_path / "served" / "box"


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


def test_an_export_does_not_write_over_anything(tmp_path: Path, exported: Path) -> None:
    with pytest.raises(UsageError, match="there already"):
        export_bundle(tmp_path / "made", "box", exported)

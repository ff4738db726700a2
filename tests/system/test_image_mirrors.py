# SPDX-License-Identifier: Apache-2.0
"""Building from mirrors that are not there, have another suite, lie, or break off."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from guests import Background

# How a mirror answers each request, by the first folder of its address.
ANSWERS = ("empty", "portal", "cut")


class Mirror(BaseHTTPRequestHandler):
    """No Debian mirror, in three ways."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        if kind == "empty":
            self.send_error(404)
            return
        data = b"<html>please log in</html>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(data) * (1000 if kind == "cut" else 1)))
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture
def mirror() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_what_is_wrong_with_a_mirror_is_told(
    background: Background, mirror: str, state_dir: Path
) -> None:
    # Port 9 of the loopback: nobody listens, and it is known at once.
    mirrors = {"unreachable": "http://127.0.0.1:9/debian"}
    mirrors |= {kind: f"{mirror}/{kind}" for kind in ANSWERS}
    # Side by side: apt tries some of them again, and waits before.
    running = {
        kind: background("image", "build", "debian", "--name", kind, "--mirror", address)
        for kind, address in mirrors.items()
    }
    told = {}
    for kind, process in running.items():
        out, err = process.communicate(timeout=150)
        assert (process.returncode, out) == (125, b""), err
        told[kind] = err.decode()
    expected = {
        "unreachable": "the Debian mirror cannot be reached",
        "empty": "the mirror does not have the suite bookworm",
        "portal": "what answers at the mirror's address is no Debian mirror",
        "cut": "the Debian mirror broke off a download",
    }
    for kind, brief in expected.items():
        lines = told[kind].splitlines()
        assert f"inn: error: {brief}" in lines, told[kind]
        assert "  at stage: packages" in lines
        # The evidence names the mirror, and the fix the way to another one.
        assert any(line.startswith("  | ") and mirrors[kind] in line for line in lines), lines
        assert lines[-1].startswith("  to fix it: ")
        assert "--mirror" in lines[-1]
        assert not (state_dir / "images" / kind).exists()
    assert list((state_dir / "images").glob(".build-*")) == []

# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for what images are made with and fetched from: mmdebstrap, a web server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Content of a stored root: large enough for a transfer to be cut in its middle.
ROOT = bytes(range(256)) * 8000

# The tree is the last argument; a mirror is never given here.
MMDEBSTRAP = """#!/bin/sh
for tree; do :; done
echo "I: installing" >&2
{before}
cp -a {template} "$tree"
{after}
"""


class Builder:
    """A state folder, and a PATH in which the tools are ours."""

    def __init__(self, folder: Path, template: Path) -> None:
        self.images = folder / "state" / "images"
        self.programs = folder / "programs"
        self.programs.mkdir()
        self._template = template
        self.env = {
            **os.environ,
            "INN_STATE_DIR": str(folder / "state"),
            "INN_CACHE_DIR": str(folder / "cache"),
            "PATH": f"{self.programs}:{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        self.mmdebstrap()

    def program(self, name: str, text: str) -> None:
        path = self.programs / name
        path.write_text(text)
        path.chmod(0o755)

    def mmdebstrap(self, before: str = "", after: str = "") -> None:
        text = MMDEBSTRAP.format(before=before, after=after, template=self._template)
        self.program("mmdebstrap", text)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "innkeeper", "image", *arguments],
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: str) -> tuple[int, str, str]:
        with self.start(*arguments) as process:
            out, err = process.communicate(timeout=50)
        return process.returncode, out.decode(), err.decode()

    def left(self) -> list[str]:
        return sorted(path.name for path in self.images.glob(".build-*"))


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

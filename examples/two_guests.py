# SPDX-License-Identifier: Apache-2.0
"""Take a folder from one guest to another; neither can reach the other by itself."""

import tempfile
from pathlib import Path

import innkeeper

with (
    tempfile.TemporaryDirectory() as folder,
    innkeeper.Machine.run("tiny", memory="256M") as first,
    innkeeper.Machine.run("tiny", memory="256M") as second,
):
    first.files.write("/tmp/letter", f"written in {first.name}\n")
    first.exec(["sh", "-c", "mkdir /tmp/post && mv /tmp/letter /tmp/post"], check=True)
    first.files.pull("/tmp/post", Path(folder) / "post")
    second.files.push(Path(folder) / "post", "/tmp/inbox")
    text = second.files.read("/tmp/inbox/letter").decode()
    print("arrived:", text == f"written in {first.name}\n")

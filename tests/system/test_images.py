# SPDX-License-Identifier: Apache-2.0
"""Debian images in real guests: systemd comes up, nothing is written, nothing is pulled away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from debian_images import BUILD_LIMIT_S, provide_debian, run_image
from guests import Inn, Start

from innkeeper.model.recipe import Recipe

# One boot of systemd under emulation takes 10 s, so one guest answers all of it.
SCRIPT = """
echo "state: $(systemctl is-system-running)"
systemctl --failed --plain --no-legend | sed 's/^/failed: /'
echo "host: $(cat /etc/hostname 2>/dev/null)"
echo "password: $(grep ^root: /etc/shadow | cut -d: -f2)"
echo "keys: $(ls /etc/ssh/ssh_host_* 2>/dev/null)"
echo "module: $(modprobe dummy && ls -d /sys/module/dummy)"
echo "root: $(grep ' / ' /proc/mounts | cut -d' ' -f1,3)"
echo "apt: $(apt-get --version | head -n 1 | cut -d' ' -f1)"
echo "pid 1: $(cat /proc/1/comm)"
echo "ours: $(bash -lc 'command -v inn-guest'), $(inn-guest cid | tr -s 0-9 n)"
echo "names: $(getent hosts host.inn | tr -s ' ')"
echo "share: $(cat /srv/site/file; touch /srv/site/new 2>&1)"
echo text > /etc/written && cat /etc/written
echo done
cat
"""

SMALL_SCRIPT = "inn-guest cid >/dev/null && cat /etc/debian_version; cat"


@pytest.mark.slow
@pytest.mark.timeout(BUILD_LIMIT_S + 180)
def test_debian_runs_and_its_image_is_held(
    debian_image: str, inn: Inn, start_inn: Start, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("of the host, ")
    share = ("-v", f"{tmp_path}:/srv/site:ro")
    guest = start_inn("--image", debian_image, *share, "--", "sh", "-c", SCRIPT, name="deb")
    out = guest.process.stdout
    assert out is not None
    lines = []
    for line in out:
        lines.append(line.decode().removesuffix("\n"))
        if lines[-1] == "done":
            break
    assert lines == [
        "state: running",
        "host: ",
        "password: *",
        "keys: ",
        "module: /sys/module/dummy",
        "root: overlay overlay",
        "apt: apt",
        "pid 1: systemd",
        "ours: /usr/local/bin/inn-guest, n",
        "names: fd69:6e6e:6b70::2 host.inn",
        "share: of the host, touch: cannot touch '/srv/site/new': Read-only file system",
        "text",
        "done",
    ], guest.finish()
    refused = inn("image", "rm", debian_image)
    assert refused.code == 125
    assert "a running guest uses it" in refused.error
    code, rest, error = guest.finish()
    assert (code, rest) == (0, b""), error
    # Nothing that the guest wrote is in the image.
    assert run_image("verify", debian_image) == f"{debian_image}: good\n"


@pytest.mark.slow
@pytest.mark.timeout(BUILD_LIMIT_S + 180)
def test_a_small_debian_is_built_twice_alike_and_shared(inn: Inn, start_inn: Start) -> None:
    # Built by this run or by an earlier one on this host, maybe from older packages.
    provide_debian("small", Recipe(init="agent"), "--init", "agent")
    one = json.loads(run_image("inspect", "small", "--format", "json"))["image"]
    guests = [
        start_inn("--image", "small", "--", "sh", "-c", SMALL_SCRIPT, name=name)
        for name in ("one", "two")
    ]
    # The second build runs while the guests do.
    build = ("build", "debian", "--init", "agent", "--name", "again", "--format", "json")
    other = json.loads(run_image(*build))["image"]
    files = {file["name"]: file["sha256"] for file in other["files"]}
    same = {file["name"]: file["sha256"] for file in one["files"]}
    if files["packages.txt"] == same["packages.txt"]:
        assert other["digest"] == one["digest"]
    for guest in guests:
        assert guest.process.stdout is not None
        assert guest.process.stdout.readline().startswith(b"12.")
    refused = inn("image", "rm", "small")
    assert (refused.code, "a running guest uses it" in refused.error) == (125, True)
    for guest in guests:
        assert guest.finish()[0] == 0
    assert inn("image", "rm", "small", "again").code == 0

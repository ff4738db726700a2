# SPDX-License-Identifier: Apache-2.0
"""Units: what an image wants started by the agent that is its PID 1."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from foreign import extend_initrd
from guests import Inn

UNITS = {
    # Out of order here; names decide. A `wait` holds up what comes later.
    "30-late": "arg = sh\narg = -c\narg = cut -d' ' -f1 /proc/uptime > /run/late\n",
    "10-early": "# The first.\narg = sh\narg = -c\nwait = yes\nenv = NAME=early\n"
    "arg = sleep 0.3; cut -d' ' -f1 /proc/uptime > /run/$NAME\n",
    "20-broken": "arg = /no/such/program\n",
    "25-nonsense": "arg = true\ncolour = blue\n",
    "40-again": "arg = sh\narg = -c\narg = echo $$ >> /run/again; exec sleep 1000\nrespawn = yes\n",
    "50-told": "arg = echo\narg = seen on the console\nconsole = yes\n",
}


def test_units(
    inn: Inn, tmp_path: Path, state_dir: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    folder = "etc/innkeeper/units"
    files = {f"{folder}/{name}.unit": (text.encode(), 0o644) for name, text in UNITS.items()}
    files[f"{folder}/15-ignored.txt"] = (b"arg = touch\narg = /run/ignored\n", 0o644)
    initrd = extend_initrd(tmp_path / "initrd", files)
    try:
        assert inn("create", "units", "--initrd", initrd).code == 0
        begun = inn("start", "units")
        assert begun.code == 0, begun.error
        begun_all = ("exec", "units", "test", "-s", "/run/late", "-a", "-s", "/run/again")
        eventually(lambda: inn(*begun_all).code == 0)
        show = "cat /run/early /run/late; ls /run/ignored 2>&1"
        early, late, *rest = inn("exec", "units", "sh", "-c", show).stdout.split(b"\n")
        assert float(early) <= float(late)
        assert b"No such file" in rest[0]
        assert inn("exec", "units", "sh", "-c", "kill -9 $(cat /run/again)").code == 0
        again = ("exec", "units", "wc", "-l", "/run/again")
        eventually(lambda: inn(*again).stdout.split()[:1] == [b"2"])
        machine = state_dir / "machines" / "units"
        eventually(lambda: "25-nonsense" in (machine / "keeper.log").read_text())
        told = (machine / "keeper.log").read_text()
        assert "unit: 20-broken.unit: No such file or directory" in told
        assert 'unit: 25-nonsense.unit: line 2: no key "colour"' in told
        eventually(lambda: "seen on the console" in (machine / "console.log").read_text())
    finally:
        inn("rm", "-f", "units")
    off = ("--append", "inn.units=off")
    none = inn("run", "--initrd", initrd, *off, "--", "test", "-e", "/run/early")
    assert none.code == 1, none.error

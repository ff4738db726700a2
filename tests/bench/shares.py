# SPDX-License-Identifier: Apache-2.0
"""`shares`: files of a shared folder, against a bare virtiofsd under plain QEMU, and over 9p."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.bench.guests import with_option, without_channels
from tests.bench.samples import Failed, Result, Series, Skipped, interleave
from tests.bench.workspace import BOOT_LIMIT_S, INN, Workspace, run_quietly, running, wait_until

from innkeeper.images.cpio import Archive

CACHES = {"never": "none", "auto": "auto", "always": "always"}
BIG_MIB, QUICK_MIB = 64, 4
_LIMIT_S = 180.0

INIT = """#!/bin/busybox sh
export PATH=/bin:/sbin
mount -t devtmpfs dev /dev; mount -t proc proc /proc; mount -t sysfs sys /sys
cd /lib/modules/$(uname -r)
load() {
    line=$(grep "/$1.ko:" modules.dep); needed=
    for file in ${line#*:}; do needed="$file $needed"; done
    for file in $needed ${line%%:*}; do insmod $file 2>/dev/null; done
}
load virtio_mmio; load virtio_pci; load virtiofs
mkdir -p /mnt && mount -t virtiofs inn-shares /mnt
/mnt/work /mnt >/dev/ttyS0 2>&1
reboot -f
"""


def measure(bench: Workspace) -> Result:
    """Each part of the work in each cache mode: ours, the bare server, 9p."""
    result = Result()
    folder = bench.folder / "shared"
    folder.mkdir()
    size = (QUICK_MIB if bench.quick else BIG_MIB) << 20
    (folder / "big").write_bytes(os.urandom(size))
    shutil.copy(bench.compiled("guest/share_work.c", "-O2", "-static"), folder / "work")
    runs = 1 if bench.quick else min(bench.runs, 5)
    for cache in CACHES:
        cases: dict[str, Callable[[], dict[str, float]]] = {
            "inn run -v": functools.partial(ours, folder, cache),
            "bare virtiofsd": functools.partial(bare, bench, folder, cache),
        }
        found = _take_turns(result, cases, cache, runs)
        for part in found.get("inn run -v", {}):
            if part in found.get("bare virtiofsd", {}):
                result.compare(
                    found["inn run -v"][part], found["bare virtiofsd"][part], at_most=1.0
                )
        try:
            over_9p = functools.partial(ours, folder, cache, *ninep_options(bench))
            _take_turns(result, {"inn run -v over 9p": over_9p}, cache, runs)
        except (Skipped, Failed) as reason:
            result.notes.append(f"9p, {cache}: {reason}")
    return result


def _take_turns(
    result: Result, cases: dict[str, Callable[[], dict[str, float]]], cache: str, runs: int
) -> dict[str, dict[str, Series]]:
    """Series by case and part; each sample of a case is one guest with all parts."""
    found: dict[str, dict[str, Series]] = {name: {} for name in cases}

    def once(name: str) -> float:
        parts = cases[name]()
        for part, seconds in parts.items():
            title = f"{name}, {cache}: {part}"
            found[name].setdefault(part, Series(title, "s")).values.append(seconds)
        return sum(parts.values())

    totals = interleave({name: functools.partial(once, name) for name in cases}, runs, "s")
    for name, series in totals.items():
        for part in found[name].values():
            # The first is the round that warms up.
            del part.values[0]
            result.series += [part] if part.values else []
        if series.failed:
            result.notes.append(f"{name}, {cache}: {series.failed} failed: {series.reason}")
    return found


def _parts(out: bytes) -> dict[str, float]:
    lines = (line.split() for line in out.decode("utf-8", "replace").splitlines())
    found = {line[0]: float(line[1]) for line in lines if len(line) == 2 and "-" in line[0]}
    if "small-remove" not in found:
        raise Failed(f"the work ended early: {out[-300:]!r}")
    return found


def ours(folder: Path, cache: str, *options: str) -> dict[str, float]:
    """Seconds of each part in a guest of ours."""
    share = ("-v", f"{folder}:/mnt", "--share-cache", cache)
    argv = [str(INN), "run", *share, *options, "--", "/mnt/work", "/mnt"]
    return _parts(run_quietly(argv, limit_s=_LIMIT_S))


def ninep_options(bench: Workspace) -> tuple[str, ...]:
    """What makes `inn run` use 9p.

    :raise Skipped: the kernel has no driver.
    """
    options = ("--share-transport", "9p")
    kernel = os.environ.get("INN_BENCH_KERNEL")
    if kernel:
        return (*options, "--kernel", kernel)
    if "9p" in bench.plan["image"]["lacks"]:
        raise Skipped("the kernel has no 9p; name one that has in INN_BENCH_KERNEL")
    return options


def bare(bench: Workspace, folder: Path, cache: str) -> dict[str, float]:
    """The same with plain QEMU and a virtiofsd as somebody starts it by hand."""
    argv = [str(INN), "plan", "run", "-v", f"{folder}:/mnt", "--format=json"]
    plan: dict[str, Any] = json.loads(run_quietly(argv))["plan"]
    place, log, console = (bench.folder / f"bare.{name}" for name in ("sock", "log", "console"))
    for path in (place, console):
        path.unlink(missing_ok=True)
    server = [plan["shares"]["server"][0], f"--socket-path={place}"]
    if "-o" in plan["shares"]["server"]:
        words = (f"source={folder}", "sandbox=chroot", "announce_submounts")
        server += [part for word in (*words, f"cache={CACHES[cache]}") for part in ("-o", word)]
    else:
        server += ["--shared-dir", str(folder), "--sandbox", "chroot"]
        server += ["--announce-submounts", "--cache", cache]
    with running(server, log=log) as process:
        wait_until(place.exists, "virtiofsd's socket", process, log)
        run_quietly(_plain(bench, plan, place, console), limit_s=BOOT_LIMIT_S + _LIMIT_S)
    return _parts(console.read_bytes())


def _plain(bench: Workspace, plan: dict[str, Any], place: Path, console: Path) -> list[str]:
    archive = Archive()
    archive.file("init", INIT.encode(), 0o755)
    initrd = bench.folder / "bare-shares.cpio"
    initrd.write_bytes(Path(plan["image"]["initrd"]).read_bytes() + archive.to_bytes())
    argv = with_option(without_channels(plan["qemu"]["argv"]), "-initrd", str(initrd))
    (device,) = (item for item in plan["qemu"]["devices"] if item["purpose"] == "shares")
    return [
        *argv,
        *("-chardev", f"file,id=console,path={console}"),
        *("-chardev", f"socket,id=shares,path={place}", "-device", device["option"]),
    ]

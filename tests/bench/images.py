# SPDX-License-Identifier: Apache-2.0
"""`images`: building one by its phases, its first boot, and Debian until its agent is ready."""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import overlays
from tests.bench.guests import with_option, without_channels
from tests.bench.machines import state_of_its_own
from tests.bench.samples import Result, Series, interleave
from tests.bench.workspace import INN, Workspace, run_captured, run_quietly, timed

from innkeeper.images.cpio import Archive
from innkeeper.images.tiny import BUSYBOX

_BUILD_LIMIT_S = 900.0
_BOOT_LIMIT_S = 180.0
_TARGET = 1.25

_PHASE = re.compile(r"^  (\w+) +([0-9.]+) s$", re.MULTILINE)

# What somebody would write by hand for the same kernel, modules and root.
_BY_HAND = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev; mount -t proc proc /proc
mount -t sysfs sys /sys; mount -t tmpfs run /run
for module in {modules}; do modprobe $module; done
until [ -b /dev/vda ]; do usleep 5000; done
mkdir /lower /layer /new
mount -r -t {fstype} /dev/vda /lower
mount -t tmpfs layer /layer; mkdir /layer/upper /layer/work
mount -t overlay -o lowerdir=/lower,upperdir=/layer/upper,workdir=/layer/work layer /new
cp /poweroff /run/poweroff
mkdir -p /run/systemd/system/multi-user.target.wants
ln -s ../bench.service /run/systemd/system/multi-user.target.wants/bench.service
cp /bench.service /run/systemd/system/bench.service
for folder in dev proc sys run; do mount --move /$folder /new/$folder; done
exec switch_root /new {init}
"""

# At the same place in systemd's order as our agent's unit.
_UNIT = """[Unit]
DefaultDependencies=no
After=multi-user.target graphical.target systemd-update-utmp-runlevel.service
[Service]
Type=idle
ExecStart=/run/poweroff
"""


@dataclass(frozen=True)
class _Case:
    """An image to measure, by its init.

    :ivar floor_init: what the floor starts on the root.
    """

    name: str
    floor_init: str

    @property
    def ours(self) -> str:
        """The name of our series."""
        return f"inn start, Debian with {self.name} as init, until its agent is ready"

    @property
    def floor(self) -> str:
        """The name of the floor's."""
        return f"floor: QEMU, same kernel, modules and root, {self.name}, powers off there"


_CASES = (_Case("systemd", "/sbin/init"), _Case("agent", "/run/poweroff"))


def measure(bench: Workspace) -> Result:
    """Phases of a build and of a first boot; starts against plain QEMU with the same files."""
    result = Result()
    with state_of_its_own(bench, "images"):
        for case in _CASES:
            _build(case, result)
            _first_boot(bench, case, result)
        _starts(bench, result)
    return result


def _build(case: _Case, result: Result) -> None:
    argv = [str(INN), "image", "build", "debian", "--init", case.name, "--name", case.name]
    told = run_captured([*argv, "--timings"], limit_s=_BUILD_LIMIT_S)
    for phase, seconds in _PHASE.findall(told):
        result.series.append(Series(f"build, {case.name}: {phase}", "s", [float(seconds)]))


def _first_boot(bench: Workspace, case: _Case, result: Result) -> None:
    """With an empty cache: the kernel is expanded, the root read, the initramfs made."""
    user = Path(os.environ.get("INN_CACHE_DIR") or _default_cache())
    cache = bench.folder / f"cache-{case.name}"
    cache.mkdir()
    # What was found out about QEMU and the host is no part of an image.
    for file in user.glob("*.json"):
        shutil.copy(file, cache)
    argv = ["env", f"INN_CACHE_DIR={cache}", str(INN), "run", "--image", case.name]
    out = run_quietly([*argv, "--format=json", "--", "true"], limit_s=_BOOT_LIMIT_S)
    timings: dict[str, float] = json.loads(out)["timings"]
    for phase, seconds in timings.items():
        result.series.append(Series(f"first boot, {case.name}: {phase}", "s", [seconds]))


def _default_cache() -> str:
    from innkeeper.registry.layout import host_layout

    return str(host_layout().cache)


def _starts(bench: Workspace, result: Result) -> None:
    stages: dict[str, Series] = {}
    cases: dict[str, Callable[[], float]] = {}
    for case in _CASES:
        cases[case.ours] = functools.partial(_start, case, stages)
        cases[case.floor] = functools.partial(
            timed, _floor_argv(bench, case), limit_s=_BOOT_LIMIT_S
        )
        run_quietly([str(INN), "create", "--image", case.name, f"m-{case.name}"])
    found = interleave(cases, min(bench.runs, 5), "s")
    result.add(found)
    for series in stages.values():
        # The first is the round that warms up.
        del series.values[0]
    result.series += [series for series in stages.values() if series.values]
    for case in _CASES:
        result.compare(found[case.ours], found[case.floor], at_most=_TARGET)


def _start(case: _Case, stages: dict[str, Series]) -> float:
    name = f"m-{case.name}"
    took_s = timed([str(INN), "start", name], limit_s=_BOOT_LIMIT_S)
    record = json.loads(run_quietly([str(INN), "inspect", "--format=json", name]))["record"]
    parts = {**record["stages"], **(record.get("guest") or {})}
    for stage, seconds in parts.items():
        key = f"start, {case.name}: {stage}"
        stages.setdefault(key, Series(key, "s")).values.append(seconds)
    run_quietly([str(INN), "stop", name], limit_s=_BOOT_LIMIT_S)
    return took_s


def _floor_argv(bench: Workspace, case: _Case) -> list[str]:
    """The planned QEMU with the root's disk and without any channel, on an initramfs by hand."""
    said = run_quietly([str(INN), "plan", "run", "--image", case.name, "--format=json"])
    plan: dict[str, Any] = json.loads(said)["plan"]
    argv = without_channels(plan["qemu"]["argv"], keep_device="inn-root")
    argv = with_option(argv, "-initrd", str(_initrd(bench, case, plan)))
    return [*argv, "-chardev", "null,id=console"]


def _initrd(bench: Workspace, case: _Case, plan: dict[str, Any]) -> Path:
    root = plan["image"]["root"]
    init = _BY_HAND.format(
        modules="virtio_mmio virtio_blk overlay " + root["fstype"],
        fstype=root["fstype"],
        init=case.floor_init,
    )
    archive = Archive()
    for folder in ("bin", "dev", "proc", "run", "sys"):
        archive.folder(folder)
    archive.device("dev/console", 0o600, 5, 1)
    archive.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    archive.file("poweroff", overlays.power_off_program(bench), 0o755)
    archive.file("bench.service", _UNIT.encode(), 0o644)
    archive.file("init", init.encode(), 0o755)
    modules = Path(root["path"]).with_name("modules.cpio").read_bytes()
    path = bench.folder / f"by-hand-{case.name}.cpio"
    path.write_bytes(modules + archive.to_bytes())
    return path

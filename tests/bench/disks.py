# SPDX-License-Identifier: Apache-2.0
"""`disks`: export and import of a disk, in MB/s of its data, against `zstd -T0` on the same file."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.samples import Ratio, Result, Series, interleave
from tests.bench.workspace import INN, Workspace, run_quietly

_MIB = 1 << 20
_LIMIT_S = 600.0
_NAME = "bench"
# Of the packages' own files, up to this much; else made-up text.
_TREES = (Path("/usr/lib"), Path("/usr/share"))


def measure(bench: Workspace) -> Result:
    """A disk that is one quarter data, as files of a distribution are, and else holes."""
    data_mib = 64 if bench.quick else 512
    folder = bench.folder / "disks"
    folder.mkdir()
    disk = folder / "disk.img"
    _make_disk(disk, data_mib * _MIB)
    environment = ["env", f"INN_STATE_DIR={folder / 'state'}", str(INN), "disk"]
    run_quietly([*environment, "create", _NAME, "--from", str(disk)], limit_s=_LIMIT_S)
    ours, theirs, back = folder / "ours.zst", folder / "theirs.zst", folder / "back.img"
    zstd = bench.tool("zstd", "apt install zstd")
    cases = {
        "inn disk export": [*environment, "export", _NAME, str(ours), "--replace"],
        "zstd -3 -T0": [zstd, "-3", "-T0", "-q", "-f", str(disk), "-o", str(theirs)],
        "inn disk import": [*environment, "import", "copy", str(ours), "--replace"],
        "zstd -d": [zstd, "-d", "-q", "-f", "--sparse", str(theirs), "-o", str(back)],
    }
    timed = {name: functools.partial(_seconds, argv) for name, argv in cases.items()}
    found = interleave(timed, min(bench.runs, 5), "s")
    rates = {name: _rate(series, data_mib) for name, series in found.items()}
    result = Result()
    result.add(rates)
    result.compare(rates["inn disk export"], rates["zstd -3 -T0"])
    result.compare(rates["inn disk import"], rates["zstd -d"])
    sizes = ours.stat().st_size / theirs.stat().st_size
    result.ratios.append(Ratio("size of our archive / zstd's", sizes))
    result.notes.append(
        f"{data_mib} MiB of data in a disk of {4 * data_mib} MiB; MB/s count the data; "
        "ours also makes or checks the digests of the archive and of the content"
    )
    return result


def _seconds(argv: list[str]) -> float:
    os.sync()
    begun = time.perf_counter()
    run_quietly(argv, limit_s=_LIMIT_S)
    return time.perf_counter() - begun


def _rate(series: Series, data_mib: int) -> Series:
    values = [data_mib * _MIB / 1e6 / seconds for seconds in series.values]
    return Series(
        series.name, "MB/s", values, more_is_better=True, failed=series.failed, reason=series.reason
    )


def _make_disk(path: Path, data_bytes: int) -> None:
    with path.open("wb") as file:
        file.write(bytes(0x438) + b"\x53\xef")
        file.seek(_MIB)
        left = data_bytes
        for part in _contents():
            # Files of a disk lie in several places.
            if left % 7 == 0:
                file.seek(4 * _MIB, os.SEEK_CUR)
            file.write(part[:left])
            left -= len(part[:left])
            if left <= 0:
                break
        file.truncate(4 * data_bytes)


def _contents() -> Iterator[bytes]:
    made = random.Random(1)
    for tree in _TREES:
        for path in sorted(tree.rglob("*")):
            with contextlib.suppress(OSError):
                if path.is_file() and not path.is_symlink() and path.stat().st_size < 64 * _MIB:
                    yield path.read_bytes()
    while True:
        yield made.randbytes(_MIB // 2) + b"text " * (_MIB // 10)

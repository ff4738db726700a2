# SPDX-License-Identifier: Apache-2.0
"""What every measurement shares: a folder, tools, the plan, and processes that end with it."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.samples import Failed, Skipped

HERE = Path(__file__).parent
INN = Path(sys.executable).parent / "inn"

# A boot under TCG takes 2 to 3 s; a guest that takes this long hangs.
BOOT_LIMIT_S = 60.0
_END_LIMIT_S = 10.0


@dataclass(frozen=True)
class Workspace:
    """One run of the benchmarks.

    :ivar folder: for everything that is built or written; removed at the end.
    :ivar runs: samples per case where a measurement has no reason to take
        another number.
    :ivar quick: small sizes, to see that it works.
    :ivar tools: a folder with competitors that are not in PATH, or None.
    """

    folder: Path
    runs: int
    quick: bool
    tools: Path | None

    @functools.cached_property
    def plan(self) -> dict[str, Any]:
        """What `inn plan run` says: the options that the competitors get too."""
        plan: dict[str, Any] = json.loads(run_quietly([str(INN), "plan", "run", "--format=json"]))
        return dict(plan["plan"])

    def tool(self, name: str, how: str) -> str:
        """The path of a program; `how` to install it is said where it is missing."""
        path = self.environment_path()
        found = shutil.which(name, path=f"{path}:/usr/sbin:/sbin")
        if found is None:
            raise Skipped(f"{name} is not installed ({how})")
        return found

    def environment_path(self) -> str:
        """PATH with the folder of the competitors."""
        path = os.environ.get("PATH", os.defpath)
        return path if self.tools is None else f"{self.tools}:{self.tools / 'bin'}:{path}"

    def compiled(self, source: str, *options: str) -> Path:
        """The program built from a C file beside this one; built once per set of options."""
        compiler = self.tool("gcc", "apt install gcc")
        name = "-".join((Path(source).stem, *(option.strip("-") for option in options)))
        target = self.folder / name.replace("/", "_")
        if not target.exists():
            run_quietly([compiler, *options, "-o", str(target), str(HERE / source)])
        return target


def run_quietly(argv: Sequence[str], *, limit_s: float = BOOT_LIMIT_S) -> bytes:
    """The stdout of a program.

    :raise Failed: it ended with another code than 0, or not in time.
    """
    return _run(argv, limit_s).stdout


def run_captured(argv: Sequence[str], *, limit_s: float = BOOT_LIMIT_S) -> str:
    """The stderr of a program, as :func:`run_quietly`."""
    return _run(argv, limit_s).stderr.decode(errors="replace")


def _run(argv: Sequence[str], limit_s: float) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise Failed(f"{shlex.join(argv)[:80]} did not end within {limit_s:g} s") from exc
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise Failed(
            f"{shlex.join(argv)[:80]} ended with code {done.returncode}: {said or 'silent'}"
        )
    return done


def timed(argv: Sequence[str], *, limit_s: float = BOOT_LIMIT_S) -> float:
    """Seconds from the start of a program to its end, as a shell sees it."""
    begun = time.perf_counter()
    run_quietly(argv, limit_s=limit_s)
    return time.perf_counter() - begun


@contextlib.contextmanager
def running(
    argv: Sequence[str],
    *,
    log: Path,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = None,
    own_session: bool = False,
) -> Iterator[subprocess.Popen[bytes]]:
    """A program that runs during the `with` block; what it says goes to `log`.

    :param own_session: as a keeper and a service have one. The kernel's autogroups
        share the CPUs of a busy host by sessions.
    """
    with log.open("ab") as out:
        process = subprocess.Popen(
            argv,
            stdin=stdin,
            stdout=out if stdout is None else stdout,
            stderr=out,
            start_new_session=own_session,
        )
    try:
        yield process
    finally:
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_END_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_until(
    condition: Callable[[], bool], what: str, process: subprocess.Popen[bytes], log: Path
) -> None:
    """Wait for something of a foreign program that can only be asked for.

    :raise Failed: the process ended or the time is over.
    """
    deadline = time.monotonic() + BOOT_LIMIT_S
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            said = log.read_bytes()[-500:].decode(errors="replace").strip()
            raise Failed(f"{what} did not come: {said}")
        time.sleep(0.02)

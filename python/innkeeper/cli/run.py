# SPDX-License-Identifier: Apache-2.0
"""`inn run`: an ephemeral guest for one command or one shell."""

from __future__ import annotations

import base64
import time
from typing import TYPE_CHECKING, Any

import click
import msgspec

from innkeeper.cli.options import TTY, build_request, run_options
from innkeeper.cli.output import Progress, print_json, render_timings
from innkeeper.keeper.messages import Ready, StageDone
from innkeeper.keeper.prepare import RunRequest, prepare_run
from innkeeper.keeper.starter import KeeperHandle, RunLimit, started, wait_ready
from innkeeper.model.machine import Command
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible

if TYPE_CHECKING:
    from innkeeper.agent.session import Captured

Row = tuple[str, float, int]


@click.command(context_settings={"allow_interspersed_args": False})
@run_options
@TTY
@click.option("--timings", is_flag=True, help="Show how long each phase took.")
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="json: one object with the exit code, the captured output and the timings.",
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[--] [COMMAND [ARG]...]")
def run(**values: Any) -> int:
    """Boot a fresh guest, run COMMAND in it, and leave nothing behind.

    The command's stdin, stdout, stderr and exit code are those of inn. Without
    COMMAND, the guest's shell runs. Ctrl-C goes to the command; while the guest
    starts, it ends the start.

    \b
    Examples:
      inn run -- uname -r
      head -c 1M /dev/urandom | inn run -- sha256sum
      inn run --memory 1G --cpus 2 --network user
      inn run --root host --rw . -- make
      inn run --wait none --kernel vmlinuz --initrd my.cpio
    """
    request, command = build_request(values)
    as_json = values["output_format"] == "json"
    progress = Progress(quiet=as_json)
    rows: list[Row] = []
    with interruptible():
        try:
            code, captured = _run(
                request,
                command,
                tty=values["tty"],
                as_json=as_json,
                progress=progress,
                rows=rows,
            )
        finally:
            progress.clear()
    if as_json:
        print_json(_result(request, code, captured, rows))
    elif values["timings"]:
        click.echo(render_timings(rows), err=True)
    return code


def _run(
    request: RunRequest,
    command: Command,
    *,
    tty: bool | None,
    as_json: bool,
    progress: Progress,
    rows: list[Row],
) -> tuple[int, Captured | None]:
    begun = time.monotonic()
    limit = RunLimit.of(request.timeout_s) if request.timeout_s is not None else None
    progress.step("preparing")
    plan = prepare_run(request, host_layout(), report=progress.line)
    rows.append(("prepare", time.monotonic() - begun, 0))
    captured: Captured | None = None
    if limit is not None:
        plan = msgspec.structs.replace(plan, ends_at=limit.ends_at)
    with started(plan) as keeper:
        # Imported while the guest boots: protobuf takes some 60 ms.
        from innkeeper.keeper import command as guest

        _follow_start(keeper, progress, rows)
        progress.clear()
        since = time.monotonic()
        if request.wait == "none":
            code = guest.run_until_power_off(keeper, limit=limit)
        elif as_json:
            captured = guest.capture_command(keeper, command, limit=limit)
            code = captured.code
        else:
            code = guest.run_command(keeper, command, tty=tty, limit=limit)
        rows.append(("command", time.monotonic() - since, 0))
        since = time.monotonic()
    rows.append(("end", time.monotonic() - since, 0))
    rows.append(("total", time.monotonic() - begun, 0))
    return code, captured


def _follow_start(keeper: KeeperHandle, progress: Progress, rows: list[Row]) -> None:
    since = time.monotonic()
    progress.step("starting QEMU")
    inside: list[Row] = []
    for event in wait_ready(keeper):
        if isinstance(event, StageDone):
            inside.append((event.name, event.seconds, 1))
            progress.step({"qemu": "booting the guest"}.get(event.name, event.name))
        elif isinstance(event, Ready):
            for warning in event.warnings:
                progress.line(f"warning: {warning}")
            inside += [(f"guest {name}", seconds, 2) for name, seconds in event.guest.items()]
    rows.append(("start", time.monotonic() - since, 0))
    rows.extend(inside)


def _result(
    request: RunRequest, code: int, captured: Captured | None, rows: list[Row]
) -> dict[str, object]:
    result: dict[str, object] = {"name": request.machine.name, "exit_code": code}
    if captured is not None:
        result |= _text("stdout", captured.stdout) | _text("stderr", captured.stderr)
        result["truncated"] = captured.truncated
    result["timings"] = {name.replace(" ", "_"): round(seconds, 4) for name, seconds, _ in rows}
    return result


def _text(name: str, data: bytes) -> dict[str, object]:
    """The bytes as text where they are UTF-8, else as base64 under another key."""
    try:
        return {name: data.decode("utf-8")}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode("ascii")}

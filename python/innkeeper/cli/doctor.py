# SPDX-License-Identifier: Apache-2.0
"""`inn doctor`: what this host can do, why not, and what to do about it."""

from __future__ import annotations

import click

from innkeeper.cli.output import Progress, print_json
from innkeeper.errors import EXIT_FAILURE
from innkeeper.keeper.checks import Check, check_host
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible

_COLOURS = {"OK": "green", "WARN": "yellow", "FAIL": "red"}


@click.command()
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
)
@click.option("--strict", is_flag=True, help="Count a WARN as a failure.")
def doctor(output_format: str, strict: bool) -> int:
    """Check this host: QEMU, image, accelerator, vsock, paths, memory, disk and more.

    The accelerator is found by a short timed boot, once per host. Exit code 0
    when guests can be run, 125 when not (with --strict: when anything is amiss).
    """
    as_json = output_format == "json"
    progress = Progress(quiet=as_json)
    found: list[Check] = []
    with interruptible():
        for check in check_host(host_layout(), report=progress.line):
            found.append(check)
            if not as_json:
                _show(check)
    bad = {"FAIL", "WARN"} if strict else {"FAIL"}
    failed = any(check.status in bad for check in found)
    if as_json:
        import msgspec

        print_json({"ok": not failed, "checks": msgspec.to_builtins(found)})
    return EXIT_FAILURE if failed else 0


def _show(check: Check) -> None:
    status = click.style(f"{check.status:<4}", fg=_COLOURS[check.status])
    click.echo(f"{status}  {check.name:<13} {check.reason}")
    if check.fix and check.status != "OK":
        click.echo(f"      {'':<13} to fix it: {check.fix}")

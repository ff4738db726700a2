# SPDX-License-Identifier: Apache-2.0
"""`inn start`, `stop`, `restart`, `pause`, `resume`, `rm`, `wait`: the life of a machine."""

from __future__ import annotations

from collections.abc import Callable

import click

from innkeeper.cli.output import Progress, render_error, render_timings
from innkeeper.errors import InnError, UsageError
from innkeeper.keeper.machines import (
    pause_machine,
    remove_machine,
    resume_machine,
    set_clock,
    start_machine,
    stop_machine,
    wait_for_state,
)
from innkeeper.keeper.messages import Event, Ready, StageDone
from innkeeper.model.record import State
from innkeeper.model.sizes import parse_duration
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.machines import load_machine
from innkeeper.registry.names import running_guests
from innkeeper.system.interrupt import interruptible

STOP_TIMEOUT = click.option(
    "-t",
    "--timeout",
    default="10s",
    show_default=True,
    metavar="TIME",
    help="Time for the guest to end in order, before it is ended less politely; 0 kills.",
)
TIMINGS = click.option("--timings", is_flag=True, help="Show how long each phase took.")
NAMES = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@click.command()
@TIMINGS
@NAMES
def start(names: tuple[str, ...], timings: bool) -> None:
    """Start machines, and wait until each is ready. One that runs is left alone."""
    layout = host_layout()
    with interruptible():
        for name in names:
            _start(layout, name, timings=timings)


def _start(layout: Layout, name: str, *, timings: bool) -> None:
    progress = Progress()
    rows: list[tuple[str, float, int]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, StageDone):
            rows.append((event.name, event.seconds, 0))
            progress.step(f"starting {name}: {event.name} done")
        elif isinstance(event, Ready):
            rows.extend((f"guest {what}", seconds, 1) for what, seconds in event.guest.items())
            for warning in event.warnings:
                progress.line(f"warning: {name}: {warning}")

    progress.step(f"starting {name}")
    try:
        begun = start_machine(layout, name, report=progress.line, on_event=on_event)
    finally:
        progress.clear()
    click.echo(name)
    if not begun:
        click.echo(f"inn: {name} is running already", err=True)
    elif timings:
        click.echo(render_timings(rows), err=True)


@click.command()
@STOP_TIMEOUT
@NAMES
def stop(names: tuple[str, ...], timeout: str) -> None:
    """Stop guests: ask the agent, then the power button, then QEMU, then kill it."""
    layout = host_layout()
    for name in names:
        if not stop_machine(layout, name, timeout_s=_seconds(timeout)):
            click.echo(f"inn: {name} is not running", err=True)
        click.echo(name)


@click.command()
@STOP_TIMEOUT
@TIMINGS
@NAMES
def restart(names: tuple[str, ...], timeout: str, timings: bool) -> None:
    """Stop machines and start them again."""
    layout = host_layout()
    with interruptible():
        for name in names:
            load_machine(layout, name)
            stop_machine(layout, name, timeout_s=_seconds(timeout))
            _start(layout, name, timings=timings)


@click.command()
@NAMES
def pause(names: tuple[str, ...]) -> None:
    """Stop the CPUs of guests; `inn resume` lets them go on."""
    layout = host_layout()
    _each(names, lambda name: pause_machine(layout, name))


@click.command()
@NAMES
def resume(names: tuple[str, ...]) -> None:
    """Let paused guests go on, and set their clocks."""
    layout = host_layout()
    _each(names, lambda name: resume_machine(layout, name))


@click.command()
@click.option("-a", "--all", "all_guests", is_flag=True, help="All guests that run.")
@click.argument("names", nargs=-1, metavar="NAME...")
def clock(names: tuple[str, ...], all_guests: bool) -> None:
    """Set the clocks of running guests to the host's, and wait until they are.

    A guest's clock is set at its start, after a pause, and when the host's own
    clock jumps or the host was suspended; this is for one that went wrong by itself.
    """
    layout = host_layout()
    if all_guests:
        names = tuple(running_guests(layout))
    elif not names:
        raise UsageError("no guest is named", fix="inn clock NAME, or inn clock --all")
    _each(names, lambda name: set_clock(layout, name))


def _each(names: tuple[str, ...], act: Callable[[str], None]) -> None:
    """Do something to each; what fails for one is told, and the others are gone on with.

    :raise InnError: the last failure.
    """
    failures: list[InnError] = []
    for name in names:
        try:
            act(name)
        except InnError as error:
            failures.append(error)
        else:
            click.echo(name)
    for failure in failures[:-1]:
        render_error(failure, as_json=False)
    if failures:
        raise failures[-1]


@click.command()
@click.option("-f", "--force", is_flag=True, help="Stop what runs; a missing machine is fine.")
@NAMES
def rm(names: tuple[str, ...], force: bool) -> None:
    """Remove machines with everything that belongs to them."""
    layout = host_layout()
    for name in names:
        if not remove_machine(layout, name, force=force) and not force:
            load_machine(layout, name)  # says that there is none, and the nearest name
        click.echo(name)


_WAITED: dict[str, tuple[State, ...]] = {
    "agent": ("running",),
    "network": ("running",),
    "stopped": ("stopped", "failed", "created"),
}


@click.command(name="wait")
@click.option(
    "--for",
    "condition",
    type=click.Choice(list(_WAITED)),
    default="stopped",
    show_default=True,
    help="agent, network: it is ready; stopped: it does not run (any more).",
)
@click.option("-t", "--timeout", metavar="TIME", help="At most so long; exit code 124 then.")
@click.argument("name")
def wait_verb(name: str, condition: str, timeout: str | None) -> None:
    """Wait until a machine is ready or has ended; prints the state it is in then."""
    timeout_s = parse_duration(timeout) if timeout is not None else None
    with interruptible():
        record = wait_for_state(host_layout(), name, _WAITED[condition], timeout_s=timeout_s)
    click.echo(record.state)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text)
    except UsageError:
        if text.strip("0.s"):
            raise
        return 0.0

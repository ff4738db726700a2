# SPDX-License-Identifier: Apache-2.0
"""`inn start`, `stop`, `restart`, `pause`, `resume`, `rm`, `wait`: the life of a machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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
    stop_machines,
    wait_for_network,
    wait_for_state,
)
from innkeeper.keeper.messages import Event, Ready, StageDone
from innkeeper.model.record import State
from innkeeper.model.sizes import parse_duration
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.registry.machines import guest_lives, load_machine
from innkeeper.registry.names import running_guests
from innkeeper.system.interrupt import interruptible
from innkeeper.system.terminal import is_terminal

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
def start(names: tuple[str, ...], timings: bool) -> int:
    """Start machines, and wait until each is ready. One that runs is left alone.

    One that cannot be started does not keep the others from it.
    """
    layout = host_layout()
    with interruptible():
        return _each(names, lambda name: _start(layout, name, timings=timings))


def _each(names: Iterable[str], work: Callable[[str], None]) -> int:
    """Do it for every name, whatever becomes of the others; the first failure's exit code."""
    code = 0
    for name in names:
        try:
            work(name)
        except InnError as error:
            render_error(error, as_json=False)
            code = code or error.exit_code
    return code


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
@click.option("-a", "--all", "everything", is_flag=True, help="All that run, of `inn run` too.")
@click.argument("names", nargs=-1, metavar="[NAME]...")
def stop(names: tuple[str, ...], everything: bool, timeout: str) -> int:
    """Stop guests: ask the agent, then the power button, then QEMU, then kill it.

    All are stopped at the same time. One that does not run is fine; a name
    that nothing has is most often a typo, and an error (exit code 2).
    """
    layout = host_layout()
    if everything == bool(names):
        raise UsageError("which guests?", fix="name some, or give --all")
    wanted = sorted(running_guests(layout)) if everything else dict.fromkeys(names)
    ends = dict[str, bool | InnError]()

    def tell(name: str) -> None:
        ended = ends[name]
        if isinstance(ended, InnError):
            raise ended
        if not ended:
            click.echo(f"inn: {name} is not running", err=True)
        click.echo(name)

    code = 0
    for name, ended in stop_machines(layout, wanted, timeout_s=stop_seconds(timeout)):
        ends[name] = ended
        code = _each((name,), tell) or code
    return code


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
            stop_machine(layout, name, timeout_s=stop_seconds(timeout))
            _start(layout, name, timings=timings)


@click.command()
@NAMES
def pause(names: tuple[str, ...]) -> int:
    """Stop the CPUs of guests; `inn resume` lets them go on."""
    layout = host_layout()

    def work(name: str) -> None:
        pause_machine(layout, name)
        click.echo(name)

    return _each(names, work)


@click.command()
@NAMES
def resume(names: tuple[str, ...]) -> int:
    """Let paused guests go on, and set their clocks."""
    layout = host_layout()

    def work(name: str) -> None:
        resume_machine(layout, name)
        click.echo(name)

    return _each(names, work)


@click.command()
@click.option("-a", "--all", "all_guests", is_flag=True, help="All guests that run.")
@click.argument("names", nargs=-1, metavar="NAME...")
def clock(names: tuple[str, ...], all_guests: bool) -> int:
    """Set the clocks of running guests to the host's, and wait until they are.

    A guest's clock is set at its start, after a pause, and when the host's own
    clock jumps or the host was suspended; this is for one that went wrong by itself.
    """
    layout = host_layout()
    if all_guests:
        names = tuple(running_guests(layout))
    elif not names:
        raise UsageError("no guest is named", fix="inn clock NAME, or inn clock --all")

    def work(name: str) -> None:
        set_clock(layout, name)
        click.echo(name)

    return _each(names, work)


@click.command()
@click.option("-f", "--force", is_flag=True, help="Stop what runs; a missing machine is fine.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask. --force does not ask either.")
@NAMES
def rm(names: tuple[str, ...], force: bool, yes: bool) -> int:
    """Remove machines with everything that belongs to them.

    On a terminal, each is asked about before. One that runs is not removed,
    unless --force stops it first.
    """
    layout = host_layout()
    asks = not (force or yes) and is_terminal(0) and is_terminal(2)

    def work(name: str) -> None:
        if not force:
            load_machine(layout, name)  # says that there is none, and the nearest name
        question = f"Remove the machine {name} with everything that belongs to it?"
        if asks and not guest_lives(layout, name) and not click.confirm(question, err=True):
            click.echo(f"inn: {name} is kept", err=True)
            return
        remove_machine(layout, name, force=force)
        click.echo(name)

    return _each(names, work)


_WAITED: dict[str, tuple[State, ...]] = {
    "agent": ("running",),
    "stopped": ("stopped", "failed", "created"),
}


@click.command(name="wait")
@click.option(
    "--for",
    "condition",
    type=click.Choice(["agent", "network", "stopped"]),
    default="stopped",
    show_default=True,
    help="agent: it is ready; network: it has an address; stopped: it does not run (any more).",
)
@click.option("-t", "--timeout", metavar="TIME", help="At most so long; exit code 124 then.")
@click.argument("name")
def wait_verb(name: str, condition: str, timeout: str | None) -> None:
    """Wait until a machine is ready or has ended; prints the state it is in then."""
    timeout_s = parse_duration(timeout) if timeout is not None else None
    with interruptible():
        layout = host_layout()
        if condition == "network":
            record = wait_for_network(layout, name, timeout_s=timeout_s)
        else:
            record = wait_for_state(layout, name, _WAITED[condition], timeout_s=timeout_s)
    click.echo(record.state)


def stop_seconds(text: str) -> float:
    """The seconds that `--timeout` of a stop says; 0 is allowed there."""
    try:
        return parse_duration(text)
    except UsageError:
        if text.strip("0.s"):
            raise
        return 0.0

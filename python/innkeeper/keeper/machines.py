# SPDX-License-Identifier: Apache-2.0
"""What can be done with a machine by its name: start, stop, pause, remove.

These are the library's verbs; the command line and the Python API render them.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from innkeeper.errors import GuestError, InnError, NameInUse, TimedOut, UsageError
from innkeeper.keeper.client import Asked, ask_keeper, watch_states
from innkeeper.keeper.messages import Event, MemoryChanged, Pause, Resume, SetMemory, Stop
from innkeeper.keeper.prepare import RunRequest, prepare_run
from innkeeper.keeper.remains import remove_remains
from innkeeper.keeper.starter import started, wait_ready
from innkeeper.model.machine import Machine, Wait
from innkeeper.model.record import LIVE_STATES, Record, State
from innkeeper.model.toml import change_machine as changed
from innkeeper.registry.layout import Layout
from innkeeper.registry.machines import (
    delete_machine,
    guest_lives,
    keeper_hidden,
    load_machine,
    read_record,
    replace_machine,
)
from innkeeper.registry.records import read_state

# Beyond the time that the ladder itself takes.
_STOP_SLACK_S = 15.0
_ANSWER_LIMIT_S = 10.0
_BETWEEN_S = 0.02
_NETWORK_FIX = "create it with --network user, tap or bridge=NAME"


def start_machine(
    layout: Layout,
    name: str,
    *,
    wait: Wait | None = None,
    report: Callable[[str], None],
    on_event: Callable[[Event], None],
) -> bool:
    """Start a machine's guest and leave it to its keeper; False when it ran already.

    :param report: called with a line for each long step.
    :param on_event: called with every message of the start.
    :raise UnknownName: there is no such machine.
    :raise InnError: the start failed.
    """
    machine = load_machine(layout, name)
    if guest_lives(layout, name):
        return False
    request = RunRequest(
        machine=machine,
        wait=wait or ("network" if machine.network != "none" else "agent"),
        log_dir=str(layout.machine(name).path),
    )
    try:
        plan = prepare_run(request, layout, report=report, record=read_record(layout, name))
        with started(plan) as keeper:
            for event in wait_ready(keeper):
                on_event(event)
            keeper.detach()
    except NameInUse:
        # Somebody else's start won; that is what was asked for.
        return False
    return True


def stop_machine(layout: Layout, name: str, *, timeout_s: float) -> bool:
    """Stop a guest; False when it did not run.

    :param timeout_s: the agent's time; 0 kills at once.
    :raise UnknownName: there is neither a machine nor a guest with this name.
    :raise TimedOut: the keeper did not end; it is told how to force it.
    """
    for _, ended in stop_machines(layout, (name,), timeout_s=timeout_s):
        if isinstance(ended, InnError):
            raise ended
        return ended
    raise AssertionError("one name, one end")


def stop_machines(
    layout: Layout, names: Iterable[str], *, timeout_s: float
) -> Iterator[tuple[str, bool | InnError]]:
    """Stop guests, all at the same time.

    :return: each name with False where its guest did not run, or with the
        error that kept it from ending (as :func:`stop_machine` raises it), in
        the order of the names.
    """
    limit_s = timeout_s * 1.3 + _STOP_SLACK_S
    with contextlib.ExitStack() as stack:
        begun: list[tuple[str, _Begun]] = []
        for name in names:
            asked = _ask_stop(layout, name, timeout_s)
            if isinstance(asked, Asked):
                stack.callback(asked.close)
            begun.append((name, asked))
        deadline = time.monotonic() + limit_s
        for name, asked in begun:
            yield name, _await_stop(layout, name, asked, deadline)


# A stop that was asked for; a keeper that ends by itself, since nobody can
# reach it; a failure; None where nothing ran.
_Begun = Asked | Literal["hidden"] | InnError | None


def _ask_stop(layout: Layout, name: str, timeout_s: float) -> _Begun:
    try:
        if not guest_lives(layout, name):
            if keeper_hidden(layout, name):
                return "hidden"
            read_record(layout, name)
            remove_remains(layout, name)
            return None
        return Asked(layout, name, Stop(timeout_s))
    except GuestError as error:
        # It ended in the meantime, which is what was asked for.
        return error if guest_lives(layout, name) else None
    except InnError as error:
        return error


def _await_stop(layout: Layout, name: str, asked: _Begun, deadline: float) -> bool | InnError:
    left_s = max(0.0, deadline - time.monotonic())
    try:
        if asked == "hidden":
            return _wait_hidden(layout, name, timeout_s=left_s)
        if not isinstance(asked, Asked):
            return False if asked is None else asked
        asked.answer(timeout_s=left_s)
    except TimedOut as error:
        return error if asked == "hidden" else _explain_hung(layout, name)
    except GuestError as error:
        if guest_lives(layout, name):
            return error
        remove_remains(layout, name)
    except InnError as error:
        return error
    return True


def _explain_hung(layout: Layout, name: str) -> TimedOut:
    state = read_state(layout.guest(name))
    return TimedOut(
        f"the keeper of {name!r} did not end its guest in time",
        stage="stop",
        fix=f"`kill -9 {state.keeper_pid}` ends the keeper, and its guest with it" if state else "",
    )


def _wait_hidden(layout: Layout, name: str, *, timeout_s: float) -> bool:
    """Wait for a keeper that ends its guest because its runtime folder is gone."""
    deadline = time.monotonic() + timeout_s
    while keeper_hidden(layout, name):
        if time.monotonic() > deadline:
            raise TimedOut(
                f"the keeper of {name!r} cannot be reached, its runtime folder being gone",
                stage="stop",
                fix=f"end its process {read_record(layout, name).keeper_pid}",
            )
        # It holds no socket any more that would tell.
        time.sleep(_BETWEEN_S)
    return True


def pause_machine(layout: Layout, name: str) -> None:
    """Stop a guest's CPUs; one that is paused stays so.

    :raise InnError: it does not run.
    """
    require_running(layout, name)
    ask_keeper(layout, name, Pause(), timeout_s=_ANSWER_LIMIT_S)


def resume_machine(layout: Layout, name: str) -> None:
    """Let a paused guest go on; one that runs is left alone.

    :raise InnError: it does not run.
    """
    require_running(layout, name)
    ask_keeper(layout, name, Resume(), timeout_s=_ANSWER_LIMIT_S)


def set_clock(layout: Layout, name: str, *, timeout_s: float = _ANSWER_LIMIT_S) -> None:
    """Set a running guest's clock to the host's, and wait until it is.

    :raise GuestError: it does not run, or its agent refused.
    :raise TimedOut: its agent did not answer.
    """
    require_running(layout, name)
    if read_record(layout, name).state == "paused":
        raise GuestError(
            f"the guest {name!r} is paused",
            stage="clock",
            fix=f"`inn resume {name}`, which sets its clock",
        )
    from innkeeper.agent.control import ControlClient

    with ControlClient(layout.guest(name).agent) as agent:
        agent.set_time(timeout_s=timeout_s)


def set_memory(layout: Layout, name: str, memory_bytes: int, *, timeout_s: float) -> int:
    """Change the memory of a running guest, until it ends; returns what it has then.

    :param memory_bytes: at most what it was started with.
    :raise UsageError: it cannot have so much, or so little.
    :raise TimedOut: the guest did not get there in time; it goes on trying.
    :raise GuestError: it does not run.
    """
    require_running(layout, name)
    answer = ask_keeper(
        layout, name, SetMemory(memory_bytes, timeout_s), timeout_s=timeout_s + _ANSWER_LIMIT_S
    )
    assert isinstance(answer, MemoryChanged)
    return answer.memory_bytes


def change_machine(layout: Layout, name: str, table: dict[str, Any], *, source: str) -> Machine:
    """Store other settings of a machine; its next start has them.

    :param table: keys and values as in a machine file.
    :raise UnknownName: there is no such machine.
    :raise UsageError: a setting makes no sense.
    """
    machine = changed(load_machine(layout, name), table, source=source)
    replace_machine(layout, machine)
    return machine


def remove_machine(layout: Layout, name: str, *, force: bool) -> bool:
    """Remove a machine; False when there was none.

    :param force: stop it first where it runs.
    :raise NameInUse: it runs.
    """
    if guest_lives(layout, name):
        if not force:
            raise NameInUse(
                f"the machine {name!r} is running",
                stage="rm",
                fix=f"`inn stop {name}` first, or `inn rm -f {name}`",
            )
        stop_machine(layout, name, timeout_s=0.0)
    elif force and keeper_hidden(layout, name):
        _wait_hidden(layout, name, timeout_s=_STOP_SLACK_S)
    remove_remains(layout, name)
    return delete_machine(layout, name)


def wait_for_state(
    layout: Layout, name: str, states: tuple[State, ...], *, timeout_s: float | None
) -> Record:
    """Wait until a machine is in one of these states; returns its record then.

    :raise TimedOut: it did not get there in time.
    :raise GuestError: it ended in another state, from which it does not come back.
    """
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    record = read_record(layout, name)
    while record.state not in states:
        if record.state not in LIVE_STATES and not guest_lives(layout, name):
            raise GuestError(
                f"the machine {name!r} is {record.state}"
                + (f": {record.reason}" * bool(record.reason)),
                stage="wait",
                fix=f"`inn start {name}`",
            )
        try:
            for change in watch_states(layout, name, deadline=deadline):
                if change.state in states:
                    break
        except TimedOut as exc:
            wanted = " or ".join(states)
            raise TimedOut(
                f"the machine {name!r} was not {wanted} within {timeout_s:g} s", stage="wait"
            ) from exc
        except GuestError:
            # Its keeper comes or goes just now, which has no event to wait for.
            time.sleep(_BETWEEN_S)
        record = read_record(layout, name)
    return record


def wait_for_network(layout: Layout, name: str, *, timeout_s: float | None) -> Record:
    """Wait until a machine's guest has an address that it can be reached at.

    :raise UsageError: it has no network.
    :raise InnError: as :func:`wait_for_state`.
    """
    record = wait_for_state(layout, name, ("running",), timeout_s=timeout_s)
    if record.network is None:
        raise UsageError(f"the machine {name!r} has no network", stage="wait", fix=_NETWORK_FIX)
    if not record.network.address:
        raise UsageError(
            f"the machine {name!r} was started without waiting for its agent, "
            "which would tell of its address",
            stage="wait",
            fix="start it without --wait none",
        )
    return record


def require_running(layout: Layout, name: str) -> None:
    """Nothing, if the guest runs.

    :raise UnknownName: there is neither a machine nor a guest with this name.
    :raise GuestError: it does not run.
    """
    record = read_record(layout, name)
    if record.state not in LIVE_STATES:
        raise GuestError(
            f"the machine {name!r} is {record.state}, not running",
            stage="keeper",
            fix=f"`inn start {name}`",
        )


def require_answering(layout: Layout, name: str) -> None:
    """Nothing, if the guest runs and its agent can answer now.

    :raise UnknownName, GuestError: as :func:`require_running`.
    :raise GuestError: it is being started or stopped, or is paused.
    """
    require_running(layout, name)
    state = read_record(layout, name).state
    fixes = {"paused": f"`inn resume {name}`", "starting": f"`inn wait {name}` first"}
    if state != "running":
        raise GuestError(
            f"the machine {name!r} is {state}", stage="keeper", fix=fixes.get(state, "")
        )

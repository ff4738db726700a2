# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: guests as fixtures.

Loaded in every run of pytest where innkeeper is installed, so nothing of
innkeeper is imported before a fixture is used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

if TYPE_CHECKING:
    from innkeeper.api.machine import Machine
    from innkeeper.keeper.logs import Source

VmFactory = Callable[..., "Machine"]
"""Starts a guest with the keywords of `Machine.run`; it ends with the test."""

Scope = Literal["function", "class", "module", "package", "session"]

_LOG_LINES = 40

# Travels with the reports, also from xdist's workers, and into JUnit files.
_PROPERTY = "innkeeper guest start"


@dataclass
class _Guest:
    """A guest of some fixture. `told`: its timings are in a report already."""

    machine: Machine
    told: bool = False


# On the test, or what it belongs to: the module, the session.
_GUESTS = pytest.StashKey[list[_Guest]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--inn-timings`, `--inn-scope` and the ini options."""
    group = parser.getgroup("innkeeper")
    group.addoption(
        "--inn-timings",
        action="store_true",
        default=False,
        help="Show how long the start of each test's guests took.",
    )
    group.addoption(
        "--inn-scope",
        choices=["function", "class", "module", "package", "session"],
        help="Which tests share the guest of the fixture `vm`; over the ini option inn_scope.",
    )
    parser.addini("inn_scope", "Which tests share the guest of `vm`.", default="function")
    parser.addini("inn_memory", "Memory of the fixtures' guests.", default="256M")
    parser.addini("inn_start_timeout", "Limit for the start of a guest, in seconds.", default="120")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line(
        "markers", "inn(**settings): keywords of Machine.run for the guests of the fixtures."
    )


def _scope(fixture_name: str, config: pytest.Config) -> Scope:  # noqa: ARG001 - pytest's names
    # Pytest itself refuses what is no scope.
    return cast("Scope", config.getoption("--inn-scope") or config.getini("inn_scope"))


@pytest.fixture(scope=_scope)
def vm(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Machine]:
    """A running tiny guest: each test's own, unless `inn_scope` has several share it.

    Where the host cannot start guests, for want of QEMU or a kernel, the test
    is skipped and says so. When a test fails, the report holds the end of each
    guest's console and logs.
    """
    with _guests(request, tmp_path_factory) as start:
        yield start()


@pytest.fixture
def vm_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VmFactory]:
    """Start guests: `vm_factory(cpus=2)`. All end with the test."""
    with _guests(request, tmp_path_factory) as start:
        yield start


@pytest.fixture
def vm_pair(vm_factory: VmFactory) -> tuple[Machine, Machine]:
    """Two running tiny guests of this test's own."""
    return vm_factory(), vm_factory()


@contextmanager
def _guests(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VmFactory]:
    """Starts guests; at the end, ends them all."""
    from innkeeper.api.machine import Machine

    config = request.config
    guests = request.node.stash.setdefault(_GUESTS, [])
    defaults: dict[str, Any] = {
        "memory": config.getini("inn_memory"),
        "timeout_s": float(config.getini("inn_start_timeout")),
    }
    for marker in reversed(list(request.node.iter_markers("inn"))):
        defaults |= marker.kwargs
    ours: list[Machine] = []

    def start(image: str = "tiny", **settings: Any) -> Machine:
        wanted = {"logs": tmp_path_factory.mktemp("guest"), **defaults, **settings}
        machine = _start_or_skip(Machine, image, wanted)
        ours.append(machine)
        guests.append(_Guest(machine))
        return machine

    failures: list[Exception] = []
    try:
        yield start
    finally:
        for machine in reversed(ours):
            # Each of them ends, whatever becomes of the others.
            try:
                machine.close()
            except Exception as exc:  # noqa: BLE001 - raised again below
                failures.append(exc)
        if failures:
            raise ExceptionGroup("guests that could not be ended", failures)


def _start_or_skip(kind: type[Machine], image: str, settings: dict[str, Any]) -> Machine:
    from innkeeper.errors import HostError, ImageError

    try:
        return kind.run(image, **settings)
    except (HostError, ImageError) as error:
        fix = f" ({error.fix})" if error.fix else ""
        pytest.skip(f"this host starts no guests: {error.brief}{fix}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the guests' timings into the report, and the ends of their logs if the test failed."""
    guests = [guest for node in item.listchain() for guest in node.stash.get(_GUESTS, [])]
    for guest in guests:
        if call.when == "call" and not guest.told:
            guest.told = True
            parts = (f"{name} {seconds:.2f} s" for name, seconds in guest.machine.timings.items())
            item.user_properties.append((_PROPERTY, f"{guest.machine.name}: {', '.join(parts)}"))
    report = yield
    if report.failed:
        for guest in guests:
            report.sections += _log_ends(guest.machine)
    return report


def _log_ends(machine: Machine) -> Iterator[tuple[str, str]]:
    """Titles and texts: the console, what the guest logged, what its keeper did."""
    text = "\n".join(machine.console_tail(_LOG_LINES))
    yield f"guest console of {machine.name}", text or "(nothing came)"
    titles: dict[Source, str] = {"guest": "guest log", "keeper": "keeper log"}
    for source, title in titles.items():
        lines = deque((line.text for line in machine.logs(source)), maxlen=_LOG_LINES)
        yield f"{title} of {machine.name}", "\n".join(lines) or "(nothing came)"


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Print the timings where they were asked for."""
    if not config.getoption("--inn-timings"):
        return
    terminalreporter.section("guest starts")
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport) and report.when == "call":
                for key, text in report.user_properties:
                    if key == _PROPERTY:
                        terminalreporter.line(f"{report.nodeid}: {text}")

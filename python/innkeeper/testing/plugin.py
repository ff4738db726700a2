# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin: guests as fixtures.

Loaded in every run of pytest where innkeeper is installed, so nothing of
innkeeper is imported before a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from innkeeper.api.machine import Machine

VmFactory = Callable[..., "Machine"]
"""Starts a guest with the keywords of `Machine.run`; it ends with the test."""

_CONSOLE_LINES = 40

_GUESTS = pytest.StashKey[list["Machine"]]()
# Travels with the reports, also from xdist's workers, and into JUnit files.
_PROPERTY = "innkeeper guest start"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--inn-timings` and the ini options `inn_memory` and `inn_start_timeout`."""
    group = parser.getgroup("innkeeper")
    group.addoption(
        "--inn-timings",
        action="store_true",
        default=False,
        help="Show how long the start of each test's guests took.",
    )
    parser.addini("inn_memory", "Memory of the fixtures' guests.", default="256M")
    parser.addini("inn_start_timeout", "Limit for the start of a guest, in seconds.", default="120")


@pytest.fixture
def vm_factory(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[VmFactory]:
    """Start guests: `vm_factory(cpus=2)`. All end with the test.

    Where the host cannot start guests, for want of QEMU or a kernel, the test
    is skipped and says so. When the test fails, the report holds the end of
    each guest's console.
    """
    from innkeeper.api.machine import Machine

    config = request.config
    guests = request.node.stash.setdefault(_GUESTS, [])
    consoles = tmp_path_factory.mktemp("consoles")

    def start(image: str = "tiny", **settings: Any) -> Machine:
        settings.setdefault("memory", config.getini("inn_memory"))
        settings.setdefault("timeout_s", float(config.getini("inn_start_timeout")))
        settings.setdefault("console", consoles / f"{len(guests)}.log")
        guest = _start_or_skip(Machine, image, settings)
        guests.append(guest)
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in guest.timings.items())
        request.node.user_properties.append((_PROPERTY, f"{guest.name}: {parts}"))
        return guest

    failures: list[Exception] = []
    try:
        yield start
    finally:
        for guest in reversed(guests):
            # Each of them ends, whatever becomes of the others.
            try:
                guest.close()
            except Exception as exc:  # noqa: BLE001 - raised again below
                failures.append(exc)
        if failures:
            raise ExceptionGroup("guests that could not be ended", failures)


@pytest.fixture
def vm(vm_factory: VmFactory) -> Machine:
    """A running tiny guest of this test's own."""
    return vm_factory()


@pytest.fixture
def vm_pair(vm_factory: VmFactory) -> tuple[Machine, Machine]:
    """Two running tiny guests of this test's own."""
    return vm_factory(), vm_factory()


def _start_or_skip(kind: type[Machine], image: str, settings: dict[str, Any]) -> Machine:
    from innkeeper.errors import HostError, ImageError

    try:
        return kind.run(image, **settings)
    except (HostError, ImageError) as error:
        fix = f" ({error.fix})" if error.fix else ""
        pytest.skip(f"this host starts no guests: {error.brief}{fix}")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the ends of the guests' consoles into the report of a test that failed."""
    report = yield
    if report.failed:
        for guest in item.stash.get(_GUESTS, []):
            text = "\n".join(guest.console_tail(_CONSOLE_LINES))
            report.sections.append((f"guest console of {guest.name}", text or "(nothing came)"))
    return report


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

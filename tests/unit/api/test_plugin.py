# SPDX-License-Identifier: Apache-2.0
"""The pytest plugin, with a stand-in for the guests."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Self

import pytest

from innkeeper.errors import BootFailed, MissingProgram
from innkeeper.keeper.logs import Line, Source

pytest_plugins = ["pytester"]

_INSTALLED = any(
    point.name == "innkeeper" for point in importlib.metadata.entry_points(group="pytest11")
)
# It is loaded by itself where the package's entry point is installed.
ARGUMENTS = () if _INSTALLED else ("-p", "innkeeper.testing.plugin")


class FakeMachine:
    """Starts nothing.

    :ivar fails: raised by the next start.
    """

    started: list[FakeMachine]
    fails: Exception | None = None

    def __init__(self, settings: dict[str, Any]) -> None:
        self.name = f"fake-{len(self.started)}"
        self.timings = {"start": 1.25}
        self.settings = settings
        self.closed = False
        self.close_fails = False

    @classmethod
    def run(cls, image: str, **settings: Any) -> Self:
        if cls.fails is not None:
            raise cls.fails
        made = cls({"image": image, **settings})
        cls.started.append(made)
        return made

    def close(self) -> None:
        self.closed = True
        if self.close_fails:
            raise BootFailed("would not end")

    def console_tail(self, lines: int) -> tuple[str, ...]:
        return (f"last of {lines} lines",)

    def logs(self, source: Source) -> Iterator[Line]:
        yield from (Line(source, 0.0, f"{source} line {number}") for number in range(50))


@pytest.fixture(autouse=True)
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeMachine]:
    FakeMachine.started = []
    monkeypatch.setattr(FakeMachine, "fails", None)
    monkeypatch.setattr("innkeeper.api.machine.Machine", FakeMachine)
    return FakeMachine


def test_guests_end_with_their_test(pytester: pytest.Pytester, fake: type[FakeMachine]) -> None:
    pytester.makeini("[pytest]\ninn_memory = 1G\n")
    pytester.makepyfile("""
        def test_one(vm):
            assert vm.name == "fake-0"

        def test_two(vm_pair, vm_factory):
            assert [guest.closed for guest in vm_pair] == [False, False]
            vm_factory(cpus=2).close_fails = True

        def test_three(vm):
            pass
    """)
    result = pytester.runpytest_inprocess(*ARGUMENTS)
    # One that cannot be ended is an error, and the others end none the less.
    result.assert_outcomes(passed=3, errors=1)
    assert [guest.closed for guest in fake.started] == [True] * 5
    assert fake.started[3].settings["cpus"] == 2
    assert {guest.settings["memory"] for guest in fake.started} == {"1G"}


def test_a_host_without_qemu_skips_with_the_reason(
    pytester: pytest.Pytester, fake: type[FakeMachine]
) -> None:
    fake.fails = MissingProgram("no qemu here", stage="qemu", fix="apt-get install qemu")
    pytester.makepyfile("def test_one(vm): pass")
    result = pytester.runpytest_inprocess("-rs", *ARGUMENTS)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*starts no guests: no qemu here (apt-get install qemu)*"])


def test_a_guest_that_fails_to_boot_is_an_error(
    pytester: pytest.Pytester, fake: type[FakeMachine]
) -> None:
    fake.fails = BootFailed("panicked")
    pytester.makepyfile("def test_one(vm): pass")
    pytester.runpytest_inprocess(*ARGUMENTS).assert_outcomes(errors=1)


def test_a_failure_shows_the_console_and_timings_are_told(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        def test_bad(vm):
            assert False

        def test_good(vm):
            pass
    """)
    result = pytester.runpytest_inprocess("--inn-timings", *ARGUMENTS)
    result.assert_outcomes(failed=1, passed=1)
    text = result.stdout.str()
    assert text.count("guest console of fake-0") == 1
    assert "last of 40 lines" in text
    assert text.count("guest log of fake-0") == text.count("keeper log of fake-0") == 1
    assert "keeper line 49" in text
    assert "keeper line 9\n" not in text
    assert "fake-1" in text.partition("guest starts")[2]
    assert "start 1.25 s" in text


def test_markers_give_settings_and_the_nearest_counts(
    pytester: pytest.Pytester, fake: type[FakeMachine]
) -> None:
    pytester.makepyfile("""
        import pytest

        pytestmark = pytest.mark.inn(cpus=2, memory="1G")

        @pytest.mark.inn(memory="2G")
        def test_one(vm, vm_factory):
            vm_factory(cpus=3)
    """)
    pytester.runpytest_inprocess(*ARGUMENTS).assert_outcomes(passed=1)
    chosen = [(guest.settings["cpus"], guest.settings["memory"]) for guest in fake.started]
    assert chosen == [(2, "2G"), (3, "2G")]


@pytest.mark.parametrize(("scope", "starts"), [("function", 4), ("module", 2), ("session", 1)])
def test_a_guest_is_shared_as_told(
    pytester: pytest.Pytester, fake: type[FakeMachine], scope: str, starts: int
) -> None:
    pytester.makeini("[pytest]\ninn_scope = module\n")
    body = """
        def test_one(vm):
            assert not vm.closed

        def test_two(vm):
            assert False
    """
    pytester.makepyfile(test_a=body, test_b=body)
    options = () if scope == "module" else (f"--inn-scope={scope}",)
    result = pytester.runpytest_inprocess("--inn-timings", *options, *ARGUMENTS)
    result.assert_outcomes(passed=2, failed=2)
    assert len(fake.started) == starts
    assert all(guest.closed for guest in fake.started)
    text = result.stdout.str()
    assert text.count("guest console of fake-") == 2
    assert text.partition("guest starts")[2].count("start 1.25 s") == starts


CONFTEST = """
    import os
    from innkeeper.api import machine

    class Fake:
        def __init__(self, settings):
            self.name = f"{os.environ['PYTEST_XDIST_WORKER']}-{settings['cpus']}"
            self.timings = {"start": 1.25}

        @classmethod
        def run(cls, image, **settings):
            return cls(settings)

        def close(self):
            pass

        def console_tail(self, lines):
            return ("the end",)

        def logs(self, source):
            return iter(())

    machine.Machine = Fake
"""


def test_it_works_under_xdist(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile("""
        import pytest

        @pytest.mark.parametrize("number", range(6))
        @pytest.mark.inn(cpus=1)
        def test_many(vm, vm_pair, number):
            assert number != 3
    """)
    result = pytester.runpytest_subprocess("-n", "2", "--inn-timings", *ARGUMENTS)
    result.assert_outcomes(passed=5, failed=1)
    text = result.stdout.str()
    assert text.count("guest console of gw") == 3
    starts = text.partition("guest starts")[2]
    assert starts.count("start 1.25 s") == 18
    assert "gw0-1" in starts
    assert "gw1-1" in starts


def test_loading_the_plugin_imports_nothing_of_innkeeper() -> None:
    code = (
        "import sys, innkeeper.testing.plugin; "
        "print(*sorted(m for m in sys.modules if m.startswith(('innkeeper', 'msgspec', 'grpc'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        "innkeeper",
        "innkeeper._version",
        "innkeeper.testing",
        "innkeeper.testing.plugin",
    }

# SPDX-License-Identifier: Apache-2.0
"""Tests with a guest of their own: `pytest examples/test_with_guest.py`.

The fixtures come with innkeeper; a host that cannot start guests skips them.
"""

import pytest

from innkeeper import CompletedExec, ExecError, Machine
from innkeeper.testing.plugin import VmFactory


def test_a_guest_has_its_own_kernel(vm: Machine) -> None:
    """`vm` is a running guest that ends with the test, or with those that share it."""
    done: CompletedExec[str] = vm.exec(["uname", "-s"], check=True, text=True)
    assert done.stdout == "Linux\n"


def test_a_failure_says_what_the_guest_said(vm: Machine) -> None:
    """`check=True` raises, with the end of stderr."""
    with pytest.raises(ExecError, match="/nowhere"):
        vm.files.read("/nowhere")


@pytest.mark.inn(cpus=2)
def test_a_guest_as_it_is_wanted(vm_factory: VmFactory) -> None:
    """The marker holds for all of a test's guests; `vm_factory` starts any number."""
    vm = vm_factory(memory="192M")
    assert vm.exec(["nproc"], check=True, text=True).stdout == "2\n"

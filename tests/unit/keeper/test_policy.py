# SPDX-License-Identifier: Apache-2.0
"""The restart policy by value."""

from __future__ import annotations

import pytest

from innkeeper.keeper.policy import restart_delay_s
from innkeeper.model.machine import RestartPolicy


@pytest.mark.parametrize(
    ("policy", "failed", "comes_again"),
    [
        ("never", True, False),
        ("never", False, False),
        ("on-failure", True, True),
        ("on-failure", False, False),
        ("always", True, True),
        ("always", False, True),
    ],
)
def test_when_a_guest_comes_again(policy: RestartPolicy, failed: bool, comes_again: bool) -> None:
    assert (restart_delay_s(policy, failed=failed, ends=1) is not None) is comes_again


def test_the_delay_doubles_up_to_a_minute() -> None:
    delays = [restart_delay_s("always", failed=True, ends=ends) for ends in (1, 2, 3, 7, 50, 5000)]
    assert delays == [1, 2, 4, 60, 60, 60]

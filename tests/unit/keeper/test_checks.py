# SPDX-License-Identifier: Apache-2.0
"""Findings of `inn doctor`, from what programs said."""

from __future__ import annotations

import pytest

from innkeeper.keeper.checks import check_virtiofsd
from innkeeper.system.process import Completed


@pytest.mark.parametrize(
    ("done", "status", "told"),
    [
        (Completed(0, b"virtiofsd 1.13.2\n", b""), "OK", "virtiofsd 1.13.2"),
        (Completed(0, b"", b"virtiofsd version 7.2.22\nmore"), "OK", "virtiofsd version 7.2.22"),
        (Completed(127, b"", b"x\nerror: libseccomp.so.2: not found\n"), "WARN", "code 127: error"),
        (Completed(-9, b"", b""), "WARN", "without a word"),
    ],
)
def test_a_virtiofsd_that_fails_is_not_fine(done: Completed, status: str, told: str) -> None:
    found = check_virtiofsd("/usr/bin/virtiofsd", done)
    assert found.status == status
    assert told in found.reason
    assert bool(found.fix) is (status != "OK")

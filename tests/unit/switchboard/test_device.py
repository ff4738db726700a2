# SPDX-License-Identifier: Apache-2.0
"""A guest's device, whose QEMU may end at any moment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from innkeeper._core import VsockDevice
from innkeeper.switchboard.device import Switchboard
from innkeeper.system.sockets import listen_unix, stream_pair


def is_over(device: VsockDevice | None) -> bool:
    assert device is not None
    try:
        device.set_peers([], [])
    except OSError:
        return True
    return False


def test_a_device_whose_qemu_has_ended_is_told_in_vain(
    tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    ours, qemus = stream_pair()
    board = Switchboard(
        guest_cid=7, vhost=ours, vsock_path=tmp_path / "vsock", agent_path=tmp_path / "agent"
    )
    try:
        qemus.close()
        eventually(lambda: is_over(board._device))
        board.set_peers([], {})
        board.link(listen_unix(tmp_path / "link"), 8)
        assert board.take_decisions() == ([], 0)
        assert board.decisions_fd >= 0
    finally:
        board.close()

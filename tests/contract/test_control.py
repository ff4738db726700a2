# SPDX-License-Identifier: Apache-2.0
"""Control calls to the real agent, as far as they leave this host alone."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from innkeeper.agent.control import ControlClient, Launched
from innkeeper.errors import CallFailed, GuestError

if TYPE_CHECKING:
    from tests.contract.conftest import Peer


@pytest.mark.parametrize("peer", ["agent"], indirect=True)
def test_calls(peer: Peer) -> None:
    with ControlClient(peer.folder / "8888.sock") as client:
        assert os.uname().release in client.kernel_version()
        script = ["/bin/sh", "-c", "echo $A; exit 3"]
        assert client.launch(script, env={"A": "b"}, wait_for_exit=True) == Launched(
            "exited", 3, b"b\n"
        )
        killed = client.launch(["/bin/sh", "-c", "kill -9 $$"], wait_for_exit=True)
        assert (killed.status, killed.code) == ("signaled", 9)
        with pytest.raises(GuestError, match="No such file"):
            client.launch(["/no/such"])
        with pytest.raises(GuestError, match="could not mount"):
            client.mount("none", "/no/such/target", "nosuchfs")
        with pytest.raises(CallFailed, match="could not mount port 16384") as failed:
            client.mount_9p(16384, str(peer.folder / "target"))
        assert failed.value.number in (errno.ENOENT, errno.ECONNRESET)
        with pytest.raises(CallFailed, match="No such file"):
            client.unmount("/no/such")
        with pytest.raises(CallFailed, match="resize '/proc'") as failed:
            client.resize_filesystem("/proc", size_bytes=1 << 30)
        assert failed.value.number == errno.EOPNOTSUPP

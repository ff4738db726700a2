# SPDX-License-Identifier: Apache-2.0
"""One guest's vsock device with the sockets behind it, opened and closed together."""

from __future__ import annotations

import contextlib
from pathlib import Path

from innkeeper._core import VsockDevice
from innkeeper.switchboard.ports import AGENT_PORT
from innkeeper.system.sockets import StreamSocket, listen_unix


class Switchboard:
    """The doors of one guest, open from construction to :meth:`close`.

    :param vsock_path: socket for `CONNECT <port>` clients; a guest connection
        to host port P goes to `<vsock_path>_<P>`.
    :param agent_path: socket that leads straight to the agent's control port.
    :raise PathTooLong, HostError: a socket cannot be bound; nothing stays open then.
    """

    def __init__(
        self, *, guest_cid: int, vhost: StreamSocket, vsock_path: Path, agent_path: Path
    ) -> None:
        self._paths = (vsock_path, agent_path)
        self._device: VsockDevice | None = None
        try:
            hybrid = listen_unix(vsock_path)
            # From here on the device owns both descriptors, also when it fails.
            self._device = VsockDevice(
                guest_cid=guest_cid,
                vhost_fd=vhost.detach(),
                hybrid_fd=hybrid.detach(),
                hybrid_path=str(vsock_path),
            )
            self._device.publish(listen_unix(agent_path).detach(), AGENT_PORT)
        except BaseException:
            vhost.close()
            self.close()
            raise

    def stats(self) -> dict[str, int]:
        """The device's counters."""
        return self._device.stats() if self._device is not None else {}

    def close(self) -> None:
        """Reset all connections and remove the sockets. Idempotent."""
        if self._device is not None:
            self._device.close()
            self._device = None
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

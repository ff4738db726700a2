# SPDX-License-Identifier: Apache-2.0
"""One guest's vsock device with the sockets behind it, opened and closed together."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from innkeeper._core import VsockDevice
from innkeeper.switchboard.ports import AGENT_PORT
from innkeeper.switchboard.table import PeerRow
from innkeeper.system.sockets import StreamSocket, listen_unix


@contextlib.contextmanager
def _unless_over() -> Iterator[None]:
    """A device whose QEMU has ended has no streams: whatever it is told is true of it."""
    try:
        yield
    except OSError as exc:
        if exc.errno != errno.EBADF:
            raise


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
            with _unless_over():
                self._device.publish(listen_unix(agent_path).detach(), AGENT_PORT)
        except BaseException:
            vhost.close()
            self.close()
            raise

    def link(self, listener: StreamSocket, cid: int) -> None:
        """Take streams of the guest with this CID on a listening socket.

        The device has it from then on, until its guest leaves the table.
        """
        fd = listener.detach()
        assert self._device is not None
        with _unless_over():
            self._device.link(fd, cid)

    def set_peers(self, rows: Iterable[PeerRow], services: Mapping[int, str]) -> None:
        """Enforce this table from now on; what it does not allow is cut.

        :param services: what ports of the host lead to, as "unix:PATH" or
            "tcp:ADDRESS:PORT"; the table decides on these, and on no others of the host.
        """
        assert self._device is not None
        table = [
            (row.cid, row.dial, list(row.connect), list(row.accept), row.max_streams)
            for row in rows
        ]
        with _unless_over():
            self._device.set_peers(table, list(services.items()))

    @property
    def decisions_fd(self) -> int:
        """Readable while decisions wait, as long as this is open."""
        assert self._device is not None
        return self._device.decisions_fd()

    def take_decisions(self) -> tuple[list[tuple[int, bool, int, int, str]], int]:
        """As `innkeeper._core.VsockDevice.take_decisions`."""
        return self._device.take_decisions() if self._device is not None else ([], 0)

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

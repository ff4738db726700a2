"""Types of the native module `innkeeper._core` (crates/core)."""

from typing import TypeAlias

from innkeeper.model.policy import Operation

def tsc_khz(window_ms: int) -> int:
    """Frequency of the time-stamp counter in kHz, counted over so many milliseconds.

    0 on processors that have none.
    """

class VsockDevice:
    """One guest's vhost-user-vsock device, served by native threads.

    The constructor returns at once; the device answers QEMU from its own
    threads and lives until `close()` or until QEMU hangs up.
    """

    def __init__(
        self,
        *,
        guest_cid: int,
        vhost_fd: int,
        hybrid_fd: int,
        hybrid_path: str,
        max_connections: int = 1024,
    ) -> None:
        """Serve a guest.

        :param guest_cid: the guest's CID, 3 to 2**32 - 2; any packet with
            another source CID is dropped and counted.
        :param vhost_fd: connected Unix stream whose other end is QEMU's
            chardev. Ownership passes to the device, also on error.
        :param hybrid_fd: listening Unix stream socket for `CONNECT <port>\\n`
            clients. Ownership passes to the device, also on error.
        :param hybrid_path: a guest connection to host port P goes to the Unix
            socket `<hybrid_path>_<P>`; refused where nobody listens there.
        :raise ValueError: CID out of range or path too long.
        :raise OSError: a descriptor is not usable.
        """

    def publish(self, listener_fd: int, guest_port: int) -> None:
        """Connect every client of a listening Unix socket straight to a guest port.

        Ownership of `listener_fd` passes to the device.

        :raise OSError: the device is closed.
        """

    def link(self, listener_fd: int, peer_cid: int) -> None:
        """Serve another guest's device on a listening Unix socket.

        Ownership of `listener_fd` passes to the device, which closes it when
        :meth:`set_peers` has that guest no more. Who can connect to it speaks
        for that guest.

        :raise OSError: the device is closed.
        """

    def set_peers(
        self,
        peers: list[tuple[int, str, list[tuple[int, int]], list[tuple[int, int]], int]],
        services: list[tuple[int, str]],
    ) -> None:
        """Replace what is allowed between this guest and others, and the host's services.

        It is in force on return; streams that it does not allow are reset.

        :param peers: for each other guest its CID, the socket on which its
            device listens for this one ("" where nothing may be dialled), the
            ranges of its ports that this guest may connect to, the ranges of
            this guest's ports that it may connect to (first and last), and the
            most streams at a time. CID 2 is the host, for its services.
        :param services: ports of the host, and what they lead to, as
            "unix:/path" or "tcp:ADDRESS:PORT". Other ports of the host are
            judged by no table.
        :raise ValueError: a service leads to nothing of that form.
        :raise OSError: the device is closed.
        """

    def take_decisions(self) -> tuple[list[tuple[int, bool, int, int, str]], int]:
        """What was allowed and refused between guests since the last call.

        :return: for each wish the other's CID, whether this guest asked, the
            port asked for, the asker's port, and "allowed", "denied",
            "over-quota" or "cut"; and how many were lost, as nobody asked.
        """

    def decisions_fd(self) -> int:
        """A descriptor that is readable while decisions wait; the device keeps it."""

    def stats(self) -> dict[str, int]:
        """Counters since start.

        Keys: connections_open, connections_total, refused, reset,
        bytes_to_guest, bytes_to_host, packets_dropped, forged_cid,
        credit_violations, denied, cut.
        """

    def close(self) -> None:
        """Stop the threads, reset all connections, close all descriptors. Idempotent."""

_Range: TypeAlias = tuple[int, int]
_Flow: TypeAlias = tuple[list[_Range], list[tuple[int, int, int]], list[_Range], list[_Range]]
_Rules: TypeAlias = tuple[list[tuple[int, str, _Flow, _Flow]], list[_Range], list[_Range], bool]

class RingBoard:
    """Carries the rings of one guest (docs/reference/rings-protocol.md) in a native thread.

    Rules are a tuple: for each other domain its id (0 is the host), the socket on
    which its board listens for this guest ("" for the host), what may flow to its
    rings and what to the guest's; ports where the guest may have wildcard rings,
    and where the host's programs may; and whether there are wildcard rings at all.
    What may flow are ranges of the ring's ports (first and last): of rings to be
    registered for the sender, to be sent to (with the sender's share of a wildcard
    ring in percent), to be asked about, and of whose room the sender may be told.
    """

    def __init__(self, *, guest: int, guest_fd: int, host_fd: int, rules: _Rules) -> None:
        """Serve a guest's rings.

        :param guest: the id of the guest's domain, 1 to 0x7FEF.
        :param guest_fd: listening Unix stream socket for the guest's programs.
            Ownership passes to the board, also on error.
        :param host_fd: the same for the host's programs.
        :raise ValueError: the id is out of range.
        :raise OverflowError: a number fits no field.
        :raise OSError: a descriptor is not usable.
        """

    def link(self, listener_fd: int, peer: int) -> None:
        """Serve the board of the guest `peer` on a listening Unix socket.

        Ownership of `listener_fd` passes to the board, which closes it when the
        rules have that guest no more. Who can connect to it speaks for that guest.

        :raise OSError: the board is closed.
        """

    def set_rules(self, rules: _Rules) -> None:
        """Replace the rules. They are in force on return; what they do not allow is cut.

        :raise OSError: the board is closed.
        """

    def take_decisions(
        self,
    ) -> tuple[list[tuple[int | None, int, Operation, int, int, str]], int]:
        """What was allowed and refused since the last call, each once for each set of rules.

        :return: for each wish the id of who sends (None: anybody), that of the
            ring's owner, the operation, the ring's port, the sender's port or 0,
            and "allowed", "denied" or "cut"; and how many were lost, as nobody asked.
        """

    def decisions_fd(self) -> int:
        """A descriptor that is readable while decisions wait; the board keeps it."""

    def close(self) -> None:
        """Stop the thread and close all descriptors. Idempotent."""

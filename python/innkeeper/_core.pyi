"""Types of the native module `innkeeper._core` (crates/core)."""

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

    def stats(self) -> dict[str, int]:
        """Counters since start.

        Keys: connections_open, connections_total, refused, reset,
        bytes_to_guest, bytes_to_host, packets_dropped, forged_cid,
        credit_violations.
        """

    def close(self) -> None:
        """Stop the threads, reset all connections, close all descriptors. Idempotent."""

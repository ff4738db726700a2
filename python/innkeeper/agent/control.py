# SPDX-License-Identifier: Apache-2.0
"""Control calls to the guest's agent: gRPC through a Unix socket.

gRPC is imported when the first client is made: it costs over 10 MB of memory,
which most guests do not need.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

from innkeeper.agent.ports import ListeningPort, parse_ports
from innkeeper.agent.text import clean_text
from innkeeper.errors import CallFailed, GuestError, GuestLost, InnError, TimedOut, UsageError
from innkeeper.system.sockets import check_socket_path

if TYPE_CHECKING:
    import grpc

_CALL_TIMEOUT_S = 10.0

# Shrinking moves what lies behind the new end.
_RESIZE_TIMEOUT_S = 600.0

_MESSAGE_LIMIT = 1 << 20

_T = TypeVar("_T")

Status = Literal["exited", "signaled", "launched"]

Cache9P = Literal["none", "mmap", "loose"]


@dataclass(frozen=True)
class Launched:
    """What became of a process.

    :ivar code: its exit code or the signal's number; 0 while it runs.
    """

    status: Status
    code: int
    output: bytes


def network_order(address: str) -> int:
    """An IPv4 address as the integer whose little-endian bytes are in network order.

    :raise UsageError: it is none.
    """
    try:
        return int.from_bytes(IPv4Address(address).packed, "little")
    except ValueError as exc:
        raise UsageError(f"{address!r} is not an IPv4 address") from exc


class ControlClient:
    """Calls one guest's agent. Close it, or use it as a context manager."""

    def __init__(self, path: Path) -> None:
        """Make a client for the socket at `path`; the first call connects."""
        import grpc

        from innkeeper.agent.pb import maitred_pb2, maitred_pb2_grpc

        self._grpc = grpc
        self._pb = maitred_pb2
        self._channel = grpc.insecure_channel(
            f"unix:{check_socket_path(path.absolute())}",
            options=[
                # Else it would be the escaped path, which HTTP/2 servers refuse.
                ("grpc.default_authority", "localhost"),
                ("grpc.enable_http_proxy", 0),
                ("grpc.enable_retries", 0),
                ("grpc.max_receive_message_length", _MESSAGE_LIMIT),
                # Without it, clients of a path that was bound anew would share
                # the old connection's back-off.
                ("grpc.use_local_subchannel_pool", 1),
            ],
        )
        self._stub = maitred_pb2_grpc.MaitredStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._channel.close()

    def kernel_version(self, *, timeout_s: float = _CALL_TIMEOUT_S) -> str:
        """The guest's kernel, as it says itself.

        :raise InnError: the agent could not be reached or refused; so do all calls.
        """
        stub, pb = self._stub, self._pb
        answer = self._call("GetKernelVersion", stub.GetKernelVersion, pb.EmptyMessage(), timeout_s)
        return clean_text(answer.kernel_version)

    def launch(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        respawn: bool = False,
        use_console: bool = False,
        wait_for_exit: bool = False,
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> Launched:
        """Start a process in the guest that no session belongs to.

        :raise GuestError: it could not be started.
        """
        pb = self._pb
        request = pb.LaunchProcessRequest(
            argv=argv,
            env=env or {},
            respawn=respawn,
            use_console=use_console,
            wait_for_exit=wait_for_exit,
        )
        answer = self._call("LaunchProcess", self._stub.LaunchProcess, request, timeout_s)
        statuses: dict[int, Status] = {
            pb.EXITED: "exited",
            pb.SIGNALED: "signaled",
            pb.LAUNCHED: "launched",
        }
        status = statuses.get(answer.status)
        if status is None:
            why = _reason(answer.code) if answer.status == pb.FAILED else "no known status"
            name = argv[0] if argv else ""
            raise GuestError(f"the guest could not start {name!r}: {why}", stage="control")
        return Launched(status, answer.code, answer.output)

    def mount(
        self,
        source: str,
        target: str,
        fstype: str,
        *,
        flags: int = 0,
        options: str = "",
        create_target: bool = False,
        mkfs_if_needed: bool = False,
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> None:
        """Mount a file system in the guest.

        :param flags: as in mount(2).
        :param mkfs_if_needed: make a file system first on a disk that holds nothing.
        :raise CallFailed: the guest could not mount it.
        """
        request = self._pb.MountRequest(
            source=source,
            target=target,
            fstype=fstype,
            mountflags=flags,
            options=options,
            create_target=create_target,
            mkfs_if_needed=mkfs_if_needed,
        )
        answer = self._call("Mount", self._stub.Mount, request, timeout_s)
        if answer.error:
            raise _failure(f"mount {source!r} at {target!r}", answer.error)

    def mount_9p(
        self,
        port: int,
        target: str,
        *,
        read_only: bool = False,
        aname: str = "",
        msize_bytes: int = 0,
        cache: Cache9P = "none",
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> None:
        """Mount in the guest what a 9P2000.L server behind a vsock port of the host serves.

        :param target: made where it is missing.
        :param aname: the server's tree, if it has several.
        :param msize_bytes: largest message; 0 is the kernel's default.
        :raise CallFailed: the guest could not connect or mount.
        """
        pb = self._pb
        caches = {
            "none": pb.CACHE_9P_NONE,
            "mmap": pb.CACHE_9P_MMAP,
            "loose": pb.CACHE_9P_LOOSE,
        }
        request = pb.Mount9PRequest(
            port=port,
            target=target,
            read_only=read_only,
            aname=aname,
            msize_bytes=msize_bytes,
            cache=caches[cache],
        )
        answer = self._call("Mount9P", self._stub.Mount9P, request, timeout_s)
        if answer.error:
            raise _failure(f"mount port {port} at {target!r}", answer.error)

    def unmount(
        self, target: str, *, lazy: bool = False, timeout_s: float = _CALL_TIMEOUT_S
    ) -> None:
        """Unmount a file system in the guest, and remove the folder made for it, if empty.

        :param lazy: also a busy one; who uses it goes on with it.
        :raise CallFailed: the guest could not unmount it; EBUSY where it is in use.
        """
        request = self._pb.UnmountRequest(target=target, lazy=lazy)
        answer = self._call("Unmount", self._stub.Unmount, request, timeout_s)
        if answer.error:
            raise _failure(f"unmount {target!r}", answer.error)

    def resize_filesystem(
        self, target: str, *, size_bytes: int = 0, timeout_s: float = _RESIZE_TIMEOUT_S
    ) -> int:
        """Resize a mounted file system of the guest: ext4 grows, btrfs also shrinks.

        :param size_bytes: 0 is all of its disk.
        :return: the size it has now, in bytes.
        :raise CallFailed: the guest could not; ENOSPC where the data need more,
            EOPNOTSUPP where the kind of file system cannot do that while mounted.
        """
        request = self._pb.ResizeFilesystemRequest(target=target, size_bytes=size_bytes)
        stub = self._stub
        answer = self._call("ResizeFilesystem", stub.ResizeFilesystem, request, timeout_s)
        if answer.error:
            wanted = f"{size_bytes} bytes" if size_bytes else "the size of its disk"
            raise _failure(f"resize {target!r} to {wanted}", answer.error)
        return answer.size_bytes

    def configure_network(
        self,
        *,
        address: str,
        netmask: str,
        gateway: str,
        nameservers: Sequence[str] = (),
        search_domains: Sequence[str] = (),
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> None:
        """Give the guest's first network interface an address, a route and name servers."""
        pb = self._pb
        request = pb.NetworkConfigRequest(
            ipv4_config=pb.IPv4Config(
                address=network_order(address),
                netmask=network_order(netmask),
                gateway=network_order(gateway),
            ),
            resolv_config=pb.ResolvConfig(nameservers=nameservers, search_domains=search_domains),
        )
        self._call("ConfigureNetwork", self._stub.ConfigureNetwork, request, timeout_s)

    def set_resolv(
        self,
        *,
        nameservers: Sequence[str],
        search_domains: Sequence[str] = (),
        timeout_s: float = _CALL_TIMEOUT_S,
    ) -> None:
        """Write the guest's resolv.conf."""
        config = self._pb.ResolvConfig(nameservers=nameservers, search_domains=search_domains)
        request = self._pb.SetResolvConfigRequest(resolv_config=config)
        self._call("SetResolvConfig", self._stub.SetResolvConfig, request, timeout_s)

    def set_time(
        self, wall_clock_ns: int | None = None, *, timeout_s: float = _CALL_TIMEOUT_S
    ) -> None:
        """Set the guest's clock; to the host's, unless another time is given."""
        now = time.time_ns() if wall_clock_ns is None else wall_clock_ns
        seconds, nanos = divmod(now, 1_000_000_000)
        request = self._pb.SetTimeRequest(seconds=seconds, nanos=nanos)
        self._call("SetTime", self._stub.SetTime, request, timeout_s)

    def set_timezone(self, name: str, *, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """Make a zone such as "Europe/Berlin" the guest's own, which must have its file."""
        request = self._pb.SetTimezoneRequest(timezone_name=name)
        self._call("SetTimezone", self._stub.SetTimezone, request, timeout_s)

    def listening_ports(self, *, timeout_s: float = _CALL_TIMEOUT_S) -> tuple[ListeningPort, ...]:
        """What programs of the guest listen on now.

        :raise ProtocolError: the answer makes no sense.
        """
        stub, pb = self._stub, self._pb
        answer = self._call("ListeningPorts", stub.ListeningPorts, pb.EmptyMessage(), timeout_s)
        return parse_ports(answer.ports)

    def shutdown(self, *, timeout_s: float = _CALL_TIMEOUT_S) -> None:
        """Ask the guest to power off. The answer comes before it does."""
        self._call("Shutdown", self._stub.Shutdown, self._pb.EmptyMessage(), timeout_s)

    def _call(self, name: str, method: Callable[..., _T], request: object, timeout_s: float) -> _T:
        try:
            return method(request, timeout=timeout_s)
        except self._grpc.RpcError as exc:
            # gRPC's errors are calls too, which its types do not say.
            call: Any = exc
            details = clean_text(call.details() or "")
            raise self._error(name, timeout_s, call.code(), details) from exc

    def _error(self, name: str, timeout_s: float, code: grpc.StatusCode, details: str) -> InnError:
        codes = self._grpc.StatusCode
        if code is codes.DEADLINE_EXCEEDED:
            return TimedOut(
                f"the guest's agent did not answer {name} within {timeout_s:g} s", stage="control"
            )
        if code is codes.UNAVAILABLE:
            return GuestLost(
                f"the guest's agent cannot be reached for {name}",
                stage="control",
                evidence=(details,) if details else (),
            )
        return GuestError(
            f"the guest's agent refused {name}: {details or code.name}", stage="control"
        )


def _failure(what: str, number: int) -> CallFailed:
    """The error for a control call that was answered with an errno."""
    error = CallFailed(f"the guest could not {what}: {_reason(number)}", stage="control")
    error.number = number
    return error


def _reason(number: int) -> str:
    """An errno of the guest in words; Linux has the same numbers on all our hosts."""
    return os.strerror(number) if 0 < number < 4096 else f"error {number}"

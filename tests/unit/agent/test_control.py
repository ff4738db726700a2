# SPDX-License-Identifier: Apache-2.0
"""Control calls against a server that answers what a test wants."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from innkeeper.agent.control import ControlClient, Launched, network_order
from innkeeper.agent.pb import maitred_pb2 as pb
from innkeeper.agent.pb import maitred_pb2_grpc
from innkeeper.errors import CallFailed, GuestError, GuestLost, TimedOut, UsageError

Answer = Callable[[grpc.ServicerContext], object]


class Agent(maitred_pb2_grpc.MaitredServicer):
    """Keeps the last request; answers by `answer`."""

    def __init__(self) -> None:
        self.request: object = None
        self.answer: Answer = lambda _: pb.EmptyMessage()

    def _any(self, request: object, context: grpc.ServicerContext) -> object:
        self.request = request
        return self.answer(context)


for name in (
    "GetKernelVersion",
    "LaunchProcess",
    "Mount",
    "Mount9P",
    "Unmount",
    "ResizeFilesystem",
    "ConfigureNetwork",
    "SetResolvConfig",
    "SetTime",
    "Shutdown",
):
    setattr(Agent, name, Agent._any)


@pytest.fixture
def agent() -> Iterator[tuple[Agent, ControlClient]]:
    with tempfile.TemporaryDirectory(prefix="inn-", dir="/tmp") as name:
        path = Path(name) / "agent.sock"
        servant = Agent()  # type: ignore[abstract]  # the loop above defines the methods
        with ThreadPoolExecutor(2) as pool:
            server = grpc.server(pool)
            maitred_pb2_grpc.add_MaitredServicer_to_server(servant, server)
            server.add_insecure_port(f"unix:{path}")
            server.start()
            with ControlClient(path) as client:
                yield servant, client
            server.stop(None).wait()


Served = tuple[Agent, ControlClient]


def test_kernel_version(agent: Served) -> None:
    agent[0].answer = lambda _: pb.GetKernelVersionResponse(kernel_version="6.12\n")
    assert agent[1].kernel_version() == "6.12\ufffd"


def test_launch(agent: Served) -> None:
    agent[0].answer = lambda _: pb.LaunchProcessResponse(status=pb.EXITED, code=3, output=b"x")
    assert agent[1].launch(["a", "b"], env={"A": "b"}, wait_for_exit=True) == Launched(
        "exited", 3, b"x"
    )
    assert agent[0].request == pb.LaunchProcessRequest(
        argv=["a", "b"], env={"A": "b"}, wait_for_exit=True
    )


@pytest.mark.parametrize(("status", "code"), [(pb.FAILED, 2), (pb.UNKNOWN, 0), (99, 0)])
def test_failed_launch(agent: Served, status: pb.ProcessStatus.ValueType, code: int) -> None:
    agent[0].answer = lambda _: pb.LaunchProcessResponse(status=status, code=code)
    with pytest.raises(GuestError, match="could not start 'a'"):
        agent[1].launch(["a"])


def test_mount(agent: Served) -> None:
    agent[0].answer = lambda _: pb.MountResponse()
    agent[1].mount("s", "/t", "virtiofs", flags=1, options="o", create_target=True)
    assert agent[0].request == pb.MountRequest(
        source="s", target="/t", fstype="virtiofs", mountflags=1, options="o", create_target=True
    )
    agent[0].answer = lambda _: pb.MountResponse(error=19)
    with pytest.raises(GuestError, match="No such device"):
        agent[1].mount("s", "/t", "x")


def test_mount_9p(agent: Served) -> None:
    agent[0].answer = lambda _: pb.MountResponse()
    agent[1].mount_9p(16384, "/t", read_only=True, aname="/a", msize_bytes=65536, cache="loose")
    assert agent[0].request == pb.Mount9PRequest(
        port=16384,
        target="/t",
        read_only=True,
        aname="/a",
        msize_bytes=65536,
        cache=pb.CACHE_9P_LOOSE,
    )
    agent[0].answer = lambda _: pb.MountResponse(error=104)
    with pytest.raises(GuestError, match="port 1 at '/t': Connection reset"):
        agent[1].mount_9p(1, "/t")


def test_unmount(agent: Served) -> None:
    agent[0].answer = lambda _: pb.UnmountResponse()
    agent[1].unmount("/t", lazy=True)
    assert agent[0].request == pb.UnmountRequest(target="/t", lazy=True)
    agent[0].answer = lambda _: pb.UnmountResponse(error=16)
    with pytest.raises(CallFailed, match="resource busy") as failed:
        agent[1].unmount("/t")
    assert failed.value.number == errno.EBUSY


def test_resize(agent: Served) -> None:
    agent[0].answer = lambda _: pb.ResizeFilesystemResponse(size_bytes=4096)
    assert agent[1].resize_filesystem("/t", size_bytes=5000) == 4096
    assert agent[0].request == pb.ResizeFilesystemRequest(target="/t", size_bytes=5000)
    agent[0].answer = lambda _: pb.ResizeFilesystemResponse(error=28)
    with pytest.raises(GuestError, match="to the size of its disk: No space left"):
        agent[1].resize_filesystem("/t")


def test_network(agent: Served) -> None:
    agent[1].configure_network(
        address="10.0.2.15", netmask="255.255.255.0", gateway="10.0.2.2", nameservers=["10.0.2.3"]
    )
    assert agent[0].request == pb.NetworkConfigRequest(
        ipv4_config=pb.IPv4Config(address=0x0F02000A, netmask=0x00FFFFFF, gateway=0x0202000A),
        resolv_config=pb.ResolvConfig(nameservers=["10.0.2.3"]),
    )
    agent[1].set_resolv(nameservers=["1.1.1.1"], search_domains=["x"])
    assert agent[0].request == pb.SetResolvConfigRequest(
        resolv_config=pb.ResolvConfig(nameservers=["1.1.1.1"], search_domains=["x"])
    )


def test_addresses_are_checked() -> None:
    assert network_order("1.2.3.4") == 0x04030201
    with pytest.raises(UsageError, match="not an IPv4 address"):
        network_order("1.2.3")


def test_time_and_shutdown(agent: Served) -> None:
    agent[1].set_time(1_700_000_000_000_000_005)
    assert agent[0].request == pb.SetTimeRequest(seconds=1_700_000_000, nanos=5)
    agent[1].shutdown()
    assert agent[0].request == pb.EmptyMessage()


def test_a_refusal_is_cleaned(agent: Served) -> None:
    def refuse(context: grpc.ServicerContext) -> object:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad\x1b[2J")

    agent[0].answer = refuse
    with pytest.raises(GuestError, match=r"refused Shutdown: bad\ufffd\[2J"):
        agent[1].shutdown()


def test_a_late_answer(agent: Served) -> None:
    agent[0].answer = lambda context: context.is_active() and wait_for_end(context)
    with pytest.raises(TimedOut, match=r"did not answer Shutdown within 0\.1 s"):
        agent[1].shutdown(timeout_s=0.1)


def wait_for_end(context: grpc.ServicerContext) -> object:
    import threading

    ended = threading.Event()
    if context.add_callback(ended.set):
        ended.wait(10)
    return pb.EmptyMessage()


def test_nobody_there(tmp_path: Path) -> None:
    with (
        ControlClient(tmp_path / "none.sock") as client,
        pytest.raises(GuestLost, match="cannot be reached for Shutdown"),
    ):
        client.shutdown()

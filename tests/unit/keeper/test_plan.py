# SPDX-License-Identifier: Apache-2.0
"""The plan of a run by value: sockets, stages and limits."""

from __future__ import annotations

import msgspec
import pytest

from innkeeper.errors import OutOfMemory, PathTooLong
from innkeeper.keeper.plan import RunPlan, plan_run
from innkeeper.keeper.prepare import check_memory
from innkeeper.model.host import HostFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine
from innkeeper.model.sizes import GIB
from innkeeper.registry.layout import Layout

LAYOUT = Layout(runtime_dir="/run/innkeeper", cache_dir="/var/cache/innkeeper", state_dir="/s")


def test_every_socket_of_a_guest_is_in_its_folder(
    machine: Machine, image: Image, host: HostFacts
) -> None:
    plan = plan_run(machine, image, host, LAYOUT, wait="agent")
    assert plan.sockets == {
        "vsock": "/run/innkeeper/box/vsock.sock",
        "announce": "/run/innkeeper/box/vsock.sock_7777",
        "guest-rings": "/run/innkeeper/box/vsock.sock_7078",
        "rings": "/run/innkeeper/box/rings.sock",
        "agent": "/run/innkeeper/box/agent.sock",
        "keeper": "/run/innkeeper/box/keeper.sock",
    }


def test_stages_follow_what_is_waited_for(image: Image, host: HostFacts) -> None:
    networked = Machine(name="box", network="user")
    names = {
        wait: [s.name for s in plan_run(networked, image, host, LAYOUT, wait=wait).stages]
        for wait in ("none", "agent")
    }
    assert names == {"none": ["qemu"], "agent": ["qemu", "boot", "network"]}


def test_a_plan_survives_the_control_channel(
    machine: Machine, image: Image, host: HostFacts
) -> None:
    plan = plan_run(machine, image, host, LAYOUT, wait="agent", timeout_s=9.0)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=RunPlan) == plan


def test_a_long_folder_is_refused_before_anything_starts(
    machine: Machine, image: Image, host: HostFacts
) -> None:
    layout = Layout(runtime_dir="/" + "r" * 90, cache_dir="/c", state_dir="/s")
    with pytest.raises(PathTooLong, match="a Unix socket takes 107") as caught:
        plan_run(machine, image, host, layout, wait="agent")
    assert "INN_RUNTIME_DIR" in caught.value.fix


def test_a_stage_has_its_own_limit_or_what_is_left_of_the_run(
    machine: Machine, image: Image, host: HostFacts
) -> None:
    plan = plan_run(machine, image, host, LAYOUT, wait="agent", timeout_s=30.0)
    own_s, _ = plan.limit_s("boot", now=100.0)
    assert own_s == 120.0
    running = msgspec.structs.replace(plan, ends_at=130.0)
    assert running.limit_s("boot", now=110.0) == (20.0, 30.0)
    assert running.limit_s("boot", now=140.0) == (0.0, 30.0)
    assert running.limit_s("qemu", now=100.0) == (20.0, 20.0)


def test_more_memory_than_the_host_has_is_refused() -> None:
    big = Machine(name="box", memory_bytes=64 * GIB)
    with pytest.raises(OutOfMemory, match="the host has 8G of memory available"):
        check_memory(big, 8 * GIB)
    check_memory(big, None)
    check_memory(big, 65 * GIB)

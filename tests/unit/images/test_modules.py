# SPDX-License-Identifier: Apache-2.0
"""Modules: what they say, the order they come in, and hostile bytes."""

from __future__ import annotations

import contextlib
import lzma
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from innkeeper.errors import ImageError
from innkeeper.images.elf import Elf
from innkeeper.images.modules import (
    ModuleTree,
    builtin_names,
    index_modules,
    module_name,
    modules_dep,
    read_modinfo,
    select_modules,
)

Make = Callable[..., bytes]


def tree(files: Mapping[str, bytes], builtin: str = "") -> ModuleTree:
    return ModuleTree("6.1", index_modules(files), builtin_names(builtin), files.__getitem__)


def chain(make_module: Make) -> dict[str, bytes]:
    return {
        "kernel/ring.ko": make_module("ring"),
        "kernel/virtio.ko": make_module("virtio", "ring"),
        "kernel/vsock.ko": make_module("vsock"),
        "kernel/common.ko": make_module("common", "vsock"),
        "kernel/my-transport.ko": make_module("my_transport", "virtio,common,ring"),
    }


def test_what_a_module_says(make_module: Make) -> None:
    info = read_modinfo(make_module("virtio_net", "net-failover,virtio"), "virtio_net.ko")
    assert (info.name, info.depends) == ("virtio_net", ("net_failover", "virtio"))


def test_a_program_is_no_module(make_elf: Make) -> None:
    with pytest.raises(ImageError, match="not a kernel module"):
        read_modinfo(make_elf(), "x.ko")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("kernel/a/virtio-rng.ko", "virtio_rng"),
        ("a.ko.xz", "a"),
        ("a.ko.zst", "a"),
        ("a.ko.gz", "a"),
        ("a.kob", None),
        (".ko", None),
    ],
)
def test_names(path: str, name: str | None) -> None:
    assert module_name(path) == name


def test_each_module_comes_after_what_it_needs(make_module: Make) -> None:
    modules = select_modules(tree(chain(make_module)), ["my-transport", "absent"])
    assert [module.name for module in modules] == [
        "ring",
        "virtio",
        "vsock",
        "common",
        "my_transport",
    ]
    *_, line = modules_dep(modules).decode().splitlines()
    name, _, needs = line.partition(": ")
    assert name == "kernel/my-transport.ko"
    # modules.dep is loaded from right to left.
    loaded: list[str] = []
    by_path = {module.path: module for module in modules}
    for path in reversed(needs.split()):
        assert set(by_path[path].needs) <= set(loaded)
        loaded.append(path)
    assert len(loaded) == 4


def test_what_is_built_in_needs_no_file(make_module: Make) -> None:
    files = chain(make_module)
    del files["kernel/ring.ko"]
    modules = select_modules(tree(files, "kernel/drivers/ring.ko\n"), ["virtio", "ring"])
    assert [(module.name, module.needs) for module in modules] == [("virtio", ())]


def test_a_missing_dependency_is_named(make_module: Make) -> None:
    files = chain(make_module)
    del files["kernel/vsock.ko"]
    with pytest.raises(ImageError, match="no module vsock, which common needs"):
        select_modules(tree(files), ["my_transport"])


def test_a_circle_is_an_error(make_module: Make) -> None:
    files = {"a.ko": make_module("a", "b"), "b.ko": make_module("b", "a")}
    with pytest.raises(ImageError, match="circle"):
        select_modules(tree(files), ["a"])


def test_compressed_and_signed_modules(make_module: Make) -> None:
    plain = make_module("a")
    signature = b"s" * 40
    tail = bytes(8) + len(signature).to_bytes(4, "big") + b"~Module signature appended~\n"
    packed = lzma.compress(plain + signature + tail)
    (module,) = select_modules(tree({"kernel/a.ko.xz": packed}), ["a"])
    assert (module.data, module.path) == (plain, "kernel/a.ko")


def test_a_damaged_module_is_an_error(make_module: Make) -> None:
    packed = lzma.compress(make_module("a"))
    for data in (packed[:-20], b"junk", b""):
        with pytest.raises(ImageError):
            select_modules(tree({"a.ko.xz": data}), ["a"])


@given(st.binary(max_size=600))
def test_hostile_bytes_after_the_magic(data: bytes) -> None:
    with contextlib.suppress(ImageError):
        read_modinfo(b"\x7fELF\x02\x01\x01" + bytes(11) + b"\x3e\x00" + data, "x")


def test_hostile_header_fields(make_module: Make) -> None:
    whole = make_module("a", "b")
    for at in range(64 + 64 * 4):
        for value in (b"\xff", b"\xff\xff\xff\xff\xff\xff\xff\xff", b"\0\0\0\0"):
            data = whole[:at] + value + whole[at + len(value) :]
            with contextlib.suppress(ImageError):
                read_modinfo(data, "x")
            with contextlib.suppress(ImageError):
                Elf(data, "x").has_pvh_entry()
                Elf(data, "x").has_interpreter()
    for end in range(len(whole)):
        with contextlib.suppress(ImageError):
            read_modinfo(whole[:end], "x")

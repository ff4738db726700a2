# SPDX-License-Identifier: Apache-2.0
"""How shares are served, by value."""

from __future__ import annotations

import msgspec
import pytest

from innkeeper.errors import HostError, MissingProgram
from innkeeper.hypervisors.qemu.plan import plan_qemu
from innkeeper.keeper.plan import plan_run, with_shares
from innkeeper.model.host import HostFacts, QemuFacts
from innkeeper.model.image import Image
from innkeeper.model.machine import Machine
from innkeeper.model.share import ServerFacts, ServerUsers, SharePlan, parse_share
from innkeeper.registry.layout import Layout
from innkeeper.shares import servers
from innkeeper.shares.plan import choose_transport, plan_server, sandbox_argv
from innkeeper.shares.servers import parse_facts
from innkeeper.shares.users import HostIds, plan_users
from innkeeper.system.process import Completed

C_SERVER = ServerFacts(path="/usr/lib/qemu/virtiofsd", flavour="c", version="7.2.22")
RUST_SERVER = ServerFacts(path="/usr/libexec/virtiofsd", flavour="rust", version="1.13.2")
NINEP = ServerFacts(path="/inn-9p", flavour="9p", version="1")
IMAGE = Image(
    name="i",
    digest="",
    kernel="k",
    kernel_source="k",
    initrd="i",
    kernel_release="6.1-amd64",
    agent=True,
    modules=(),
    initrd_bytes=1,
    kernel_bytes=1,
)
DEVICES = ("vhost-user-fs-device", "vhost-user-fs-pci")


@pytest.fixture
def qemu(host: HostFacts) -> QemuFacts:
    return msgspec.structs.replace(host.qemu, devices=(*host.qemu.devices, *DEVICES))


def plan(qemu: QemuFacts, server: ServerFacts, *shares: str, uid: int = 1000) -> SharePlan:
    parsed = tuple(parse_share(share) for share in shares)
    choice = choose_transport(qemu, IMAGE, server, NINEP)
    users = plan_users(parsed, HostIds(uid=uid, gid=uid))
    return plan_server(choice, parsed, root="/run/inn/box/shares", cache="never", users=users)


def test_the_server_written_in_c(qemu: QemuFacts) -> None:
    assert plan(qemu, C_SERVER).server == (
        *("/usr/lib/qemu/virtiofsd", "-f", "--fd=<fd>", "--thread-pool-size=1"),
        *("-o", "source=/run/inn/box/shares/view", "-o", "sandbox=chroot"),
        *("-o", "announce_submounts", "-o", "log_level=warn", "-o", "cache=none"),
    )


def test_the_server_written_in_rust(qemu: QemuFacts) -> None:
    assert plan(qemu, RUST_SERVER).server == (
        *("/usr/libexec/virtiofsd", "--fd=<fd>", "--shared-dir", "/run/inn/box/shares/view"),
        *("--sandbox", "chroot", "--announce-submounts", "--cache", "never"),
    )


def test_what_is_started_makes_the_namespaces_first(qemu: QemuFacts) -> None:
    made = plan(qemu, RUST_SERVER, "/b=c:/b", "/a:/a:ro")
    keys = [parse_share(share).key for share in ("/a:/a", "/b:/b")]
    argv = sandbox_argv(made, python="/python", program="/sandbox.py", fd=7)
    assert argv[:6] == [
        *("/python", "-I", "-S", "/sandbox.py", "serve", "/run/inn/box/shares"),
    ]
    assert argv[6] == "user;uid=0;gid=0;uids=0-1000-1;gids=0-1000-1"
    assert argv[7:10] == [f"{keys[0]}=ro=/a", f"{keys[1]}=rw=/b=c", "--"]
    assert argv[10:12] == ["/usr/libexec/virtiofsd", "--fd=7"]


def test_root_keeps_its_own_users(qemu: QemuFacts) -> None:
    argv = sandbox_argv(plan(qemu, C_SERVER, uid=0), python="p", program="s", fd=7)
    assert argv[6] == "host;uid=0;gid=0"


def test_the_guest_is_told_of_its_shares(host: HostFacts, qemu: QemuFacts, image: Image) -> None:
    facts = msgspec.structs.replace(host, qemu=qemu)
    machine = Machine(name="box", shares=(parse_share("/x:/a b"),))
    shares = plan(qemu, C_SERVER, "/x:/a b")
    image = msgspec.structs.replace(image, modules=(*image.modules, "virtiofs"))
    made = plan_qemu(machine, image, facts, shares=shares)
    key = machine.shares[0].key
    assert f'inn.shares=virtiofs:inn-shares inn.share="{key}:/a b"' in made.cmdline
    assert "virtiofs" in made.cmdline.split("inn.modules=")[1].split()[0].split(",")
    device = "vhost-user-fs-device,chardev=shares,tag=inn-shares,queue-size=1024"
    assert made.argv[made.argv.index(device) - 1] == "-device"
    assert "socket,id=shares,fd=<fd:shares>" in made.argv
    assert made.descriptors[-1] == "shares"
    assert not any("inn.share" in word for word in plan_qemu(machine, image, facts).argv)


def test_a_host_that_cannot_is_refused_with_the_reason(host: HostFacts, qemu: QemuFacts) -> None:
    with pytest.raises(HostError, match="no vhost-user-fs device") as caught:
        choose_transport(host.qemu, IMAGE, C_SERVER, MissingProgram("none", stage="shares"))
    assert caught.value.fix
    with pytest.raises(MissingProgram):
        choose_transport(
            qemu, IMAGE, MissingProgram("none", stage="shares"), NINEP, wish="virtiofs"
        )


def without(*names: str) -> Image:
    return msgspec.structs.replace(IMAGE, lacks=names)


def test_9p_where_virtiofs_cannot_be(qemu: QemuFacts) -> None:
    missing = MissingProgram("virtiofsd is not installed", stage="shares")
    choice = choose_transport(qemu, IMAGE, missing, NINEP)
    assert (choice.transport, choice.fallback) == ("9p", True)
    assert choice.reason == "9p over vsock, because virtiofsd is not installed"
    choice = choose_transport(qemu, without("virtiofs"), C_SERVER, NINEP)
    assert (choice.transport, choice.fallback) == ("9p", True)
    assert "6.1-amd64 has no driver for virtiofs" in choice.reason
    choice = choose_transport(qemu, IMAGE, C_SERVER, NINEP)
    assert (choice.transport, choice.fallback) == ("virtiofs", False)
    choice = choose_transport(qemu, IMAGE, C_SERVER, NINEP, wish="9p")
    assert (choice.transport, choice.fallback) == ("9p", False)


def test_a_kernel_without_the_driver_is_refused_with_the_reason(qemu: QemuFacts) -> None:
    cloud = without("9p", "9pnet_fd")
    with pytest.raises(HostError, match="no driver for 9p") as caught:
        choose_transport(qemu, cloud, C_SERVER, NINEP, wish="9p")
    assert "cloud kernels have not" in caught.value.fix
    # What is to be mended is the first choice.
    with pytest.raises(MissingProgram, match="no virtiofsd"):
        choose_transport(qemu, cloud, MissingProgram("no virtiofsd", stage="shares"), NINEP)


def test_the_9p_server_keeps_the_rights_of_root_only_for_root(
    host: HostFacts, qemu: QemuFacts, image: Image
) -> None:
    choice = choose_transport(qemu, IMAGE, C_SERVER, NINEP, wish="9p")
    share = parse_share("/x:/a")
    user, root = (
        plan_server(
            choice,
            (share,),
            root="/r",
            cache="always",
            users=plan_users((share,), HostIds(uid=uid, gid=uid)),
        )
        for uid in (1000, 0)
    )
    argv = [sandbox_argv(made, python="p", program="s", fd=7) for made in (user, root)]
    assert argv[0][-3:] == ["/inn-9p", "7", "/r/view"]
    assert argv[1][-4:] == ["/inn-9p", "7", "/r/view", "root"]
    drivers = ("9p", "9pnet_fd")
    image = msgspec.structs.replace(image, modules=(*image.modules, *drivers))
    made = plan_qemu(Machine(name="box", shares=(share,)), image, host, shares=user)
    assert "inn.shares=9p:16384,loose" in made.cmdline
    assert set(drivers) <= set(made.cmdline.split("inn.modules=")[1].split()[0].split(","))
    assert not any("vhost-user-fs" in word for word in made.argv)
    assert made.descriptors[-1] != "shares"


@pytest.mark.parametrize(
    ("said", "flavour", "version"),
    [
        (b"virtiofsd version 7.2.22 (Debian 1:7.2)\nusing FUSE\n", "c", "7.2.22"),
        (b"virtiofsd 1.13.2\n", "rust", "1.13.2"),
    ],
)
def test_a_server_is_known_by_what_it_says(said: bytes, flavour: str, version: str) -> None:
    facts = parse_facts("/v", Completed(0, said, b""))
    assert (facts.flavour, facts.version) == (flavour, version)


def test_one_for_another_c_library_is_refused() -> None:
    said = b"virtiofsd: /lib/libc.so.6: version `GLIBC_2.39' not found\n"
    with pytest.raises(HostError, match="exit code 1") as caught:
        parse_facts("/v", Completed(1, b"", said))
    assert "GLIBC_2.39" in caught.value.evidence[0]
    assert "reinstall" in caught.value.fix
    with pytest.raises(HostError, match="no virtiofsd"):
        parse_facts("/v", Completed(0, b"hello\n", b""))


def test_one_that_was_killed_or_lacks_a_library_is_refused() -> None:
    for done in (
        Completed(127, b"", b"error: libseccomp.so.2: not found\n"),
        Completed(-9, b"", b""),
    ):
        with pytest.raises(HostError, match="failed with exit code") as caught:
            parse_facts("/v", done)
        assert caught.value.evidence


def test_a_host_without_namespaces_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Completed(1, b"", b"make namespaces: Operation not permitted\n")
    monkeypatch.setattr(servers, "run_tool", lambda *_, **__: refused)
    with pytest.raises(HostError, match="no share server have namespaces") as caught:
        servers.try_namespaces(ServerUsers(own_user=True))
    assert "Operation not permitted" in caught.value.evidence[0]


def test_a_guest_that_starts_again_has_the_shares_of_now(
    host: HostFacts, qemu: QemuFacts, image: Image
) -> None:
    facts = msgspec.structs.replace(host, qemu=qemu)
    layout = Layout(runtime_dir="/run/inn", cache_dir="/c", state_dir="/s")
    before, after = plan(qemu, C_SERVER, "/x:/a"), plan(qemu, C_SERVER, "/y:/b c", "/z:/d")
    machine = Machine(name="box", append=("inn.share=kept",))
    made = plan_run(machine, image, facts, layout, wait="agent", shares=before)
    again = with_shares(made, after)
    fresh = plan_run(machine, image, facts, layout, wait="agent", shares=after)
    assert again == fresh
    assert with_shares(again, before) == made

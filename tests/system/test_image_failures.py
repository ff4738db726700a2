# SPDX-License-Identifier: Apache-2.0
"""Images that guests start from, when something is wrong with them, their source or the moment."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from debian_images import run_image
from guests import Inn, Start
from small_roots import make_tree
from stand_ins import Server

from innkeeper.images.bundles import find_bundle, finish_bundle, place_bundle
from innkeeper.images.making import building
from innkeeper.images.modules import select_modules
from innkeeper.images.package import find_package, unpack_package
from innkeeper.images.stored_kernels import modules_archive
from innkeeper.registry.layout import host_layout


@pytest.fixture(scope="module")
def exported(state_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small image as `inn image export` wrote it; the image itself is gone."""
    folder = tmp_path_factory.mktemp("box")
    tree = make_tree(folder / "tree")
    (tree / "etc/greeting").write_text("hello\n")
    run_image("import", "box", "--root", str(tree), "--kernel", "debian")
    run_image("export", "box", str(folder / "served/box"))
    run_image("rm", "box")
    return folder / "served/box"


@pytest.fixture
def server(exported: Path) -> Iterator[Server]:
    server = Server(exported.parent)
    yield server
    server.close()


@pytest.fixture
def box(exported: Path) -> Iterator[str]:
    """The image, installed for one test."""
    run_image("install", str(exported))
    yield "box"
    shutil.rmtree(host_layout().images / "box", ignore_errors=True)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file."""
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


def test_an_image_from_a_server_that_breaks_off_and_goes_away(inn: Inn, exported: Path) -> None:
    server = Server(exported.parent)
    try:
        # Twice at the same place: the second time brings nothing, and the command gives up.
        server.break_at = [100_000, 100_000]
        done = inn("image", "install", f"{server.address}/box")
        assert done.code == 125
        assert "try again; what is there already is not fetched twice" in done.error
        assert inn("image", "ls", "-q").stdout == b""
        server.log.clear()
        assert inn("image", "install", f"{server.address}/box").code == 0
        roots = [wanted for path, wanted in server.log if path.endswith("root.erofs")]
        assert roots == ["bytes=100000-"]
        server.log.clear()
        again = inn("image", "install", f"{server.address}/box")
        assert (again.code, b"(unchanged)" in again.stdout, server.log) == (0, True, [])
    finally:
        server.close()
    # There is no server any more.
    done = inn("run", "--image", "box", "--", "cat", "/etc/greeting")
    assert (done.code, done.stdout) == (0, b"hello\n"), done.error
    assert inn("image", "install", f"{server.address}/box").code == 0
    assert inn("image", "rm", "box").code == 0


def test_a_flipped_byte_is_refused_by_file_name(inn: Inn, box: str, exported: Path) -> None:
    root = host_layout().images / box / "root.erofs"
    flip(root)
    for verb in (("run", "--image", box, "--", "true"), ("image", "verify", box)):
        done = inn(*verb)
        assert done.code == 125
        assert f"the file {root} is damaged" in done.error
        assert "to fix it: build, import or install the image box again with --force" in done.error
    assert inn("image", "install", str(exported), "--force").code == 0
    assert inn("image", "verify", box).stdout == b"box: good\n"


def without(name: str, box: str, driver: str) -> None:
    """The image `name`: as `box`, but its initramfs does not have this driver."""
    layout = host_layout()
    bundle, folder = find_bundle(layout.images, box)
    package = find_package(layout.cache / "packages")
    assert package is not None, "`make setup` fetches it"
    content = unpack_package(package)
    (kernel,) = bundle.kernels
    wanted = [module for module in kernel.modules if module != driver]
    modules = [
        module for module in select_modules(content.modules, wanted) if module.name != driver
    ]
    with building(layout.images) as half:
        for file in (kernel.file, bundle.root):
            shutil.copy(folder / file, half / file)
        (half / kernel.modules_file).write_bytes(modules_archive(content.release, modules))
        kernel = msgspec.structs.replace(kernel, modules=tuple(module.name for module in modules))
        bundle = msgspec.structs.replace(bundle, name=name, kernels=(kernel,))
        files = [file.name for file in bundle.files]
        place_bundle(layout.images, half, finish_bundle(half, bundle, files), force=False)


@pytest.mark.parametrize("driver", ["erofs", "virtio_blk"])
def test_a_missing_driver_is_named(inn: Inn, box: str, driver: str) -> None:
    without("lacking", box, driver)
    done = inn("run", "--image", "lacking", "--", "true")
    assert done.code == 125
    assert f"the guest's kernel has no driver {driver}, which its root needs" in done.error
    assert "--flavour" in done.error
    assert inn("image", "rm", "lacking").code == 0


def test_an_image_for_another_machine_is_refused(inn: Inn, exported: Path, tmp_path: Path) -> None:
    other = tmp_path / "arm"
    shutil.copytree(exported, other)
    manifest = other / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"x86_64"', '"aarch64"'))
    done = inn("image", "install", str(other))
    assert done.code == 125
    assert "the image box is for aarch64, and guests are x86_64" in done.error
    assert inn("image", "ls", "-q").stdout == b""


def test_an_image_removed_while_its_guest_boots(inn: Inn, box: str, start_inn: Start) -> None:
    guest = start_inn("--image", box, "--", "sh", "-c", "echo up; cat", name="boots")
    assert guest.process.stdout is not None
    guest.wait_state("starting", "running")
    # Around the moment from which on the keeper holds it; who wins is not the point.
    removed = inn("image", "rm", box)
    while removed.code != 0 and guest.state().get("state") not in ("running", None):
        assert "a running guest uses it" in removed.error
        removed = inn("image", "rm", box)
    if removed.code == 0:
        code, _, error = guest.finish()
        assert code in (2, 125), error
        assert "box" in error
        return
    assert guest.process.stdout.readline() == b"up\n"
    refused = inn("image", "rm", box)
    assert (refused.code, "a running guest uses it" in refused.error) == (125, True)
    assert guest.finish()[0] == 0
    assert inn("image", "rm", box).code == 0

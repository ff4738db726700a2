# SPDX-License-Identifier: Apache-2.0
"""What is left of a build that fails, is killed or has company."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from innkeeper.errors import HostError, InnError, OutOfSpace
from innkeeper.images.tiny import prepare_tiny
from innkeeper.model.image import Image
from innkeeper.system.files import write_atomic, write_new
from innkeeper.system.output import program_output

# Builds the image in another process; the end of the report can be changed.
_BUILDER = """
import os, signal, sys
from pathlib import Path
from innkeeper.images.tiny import prepare_tiny

def report(line):
    if len(sys.argv) > 2 and sys.argv[2] in line:
        os.kill(os.getpid(), signal.SIGKILL)

print(prepare_tiny(Path(sys.argv[1]), report=report).digest)
"""


def builder(*args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _BUILDER, *args], stdout=subprocess.PIPE)


def prepare(cache: Path) -> Image:
    return prepare_tiny(cache, report=lambda _line: None)


def left_over(cache: Path) -> list[str]:
    return sorted(p.name for p in (cache / "images").iterdir() if p.name != "inputs.json")


@pytest.mark.parametrize("when", ["unpacking", "expanding", "building"])
def test_a_killed_build_leaves_no_image_and_is_cleaned_up(when: str, cache: Path) -> None:
    process = builder(str(cache), when)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [name.startswith(".build-") for name in left_over(cache)] == [True]
    image = prepare(cache)
    assert left_over(cache) == [f"tiny-{image.digest[:12]}"]


def test_builders_at_the_same_time_make_one_image(cache: Path) -> None:
    processes = [builder(str(cache)) for _ in range(3)]
    digests = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert len(digests) == 1
    assert len(left_over(cache)) == 1


@pytest.mark.parametrize("damage", ["shorter", "gone", "manifest", "nonsense", "digest"])
def test_a_damaged_image_is_built_again(damage: str, cache: Path) -> None:
    image = prepare(cache)
    initrd = Path(image.initrd)
    manifest = initrd.with_name("manifest.json")
    match damage:
        case "shorter":
            initrd.write_bytes(initrd.read_bytes()[:-1])
        case "gone":
            Path(image.kernel).unlink()
        case "manifest":
            manifest.unlink()
        case "nonsense":
            manifest.write_text("{")
        case _:
            other = msgspec.structs.replace(image, digest="0" * 64)
            manifest.write_bytes(msgspec.json.encode(other))
    assert prepare(cache) == image
    assert initrd.stat().st_size == image.initrd_bytes


def test_images_that_were_not_used_for_a_month_go(
    cache: Path, agent: Path, make_elf: Callable[..., bytes]
) -> None:
    ages = {1: 40, 2: 20, 3: 0}
    images = {}
    for number, days in ages.items():
        agent.write_bytes(make_elf({".text": b"agent %d" % number}))
        images[number] = prepare(cache)
        manifest = Path(images[number].initrd).with_name("manifest.json")
        then = time.time() - days * 24 * 3600
        os.utime(manifest, (then, then))
    agent.write_bytes(make_elf({".text": b"agent 4"}))
    prepare(cache)
    assert [Path(image.initrd).exists() for image in images.values()] == [False, True, True]


def test_a_use_keeps_an_image_young(cache: Path) -> None:
    manifest = Path(prepare(cache).initrd).with_name("manifest.json")
    os.utime(manifest, (1e9, 1e9))
    prepare(cache)
    assert time.time() - manifest.stat().st_mtime < 60


def test_a_damaged_list_of_inputs_only_costs_time(cache: Path) -> None:
    image = prepare(cache)
    (cache / "images" / "inputs.json").write_text("[]")
    assert prepare(cache) == image


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow over 1 MiB: the write fails with EFBIG, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_nothing(cache: Path, small_files: None) -> None:
    with pytest.raises(OutOfSpace, match=r"\.build-\w+/initrd"):
        prepare(cache)
    assert left_over(cache) == []


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, small_files: None) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")
    with pytest.raises(OutOfSpace):
        write_atomic(path, bytes(2 << 20))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"mounting a tmpfs is not permitted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_small_disk(small_disk: Path, agent: Path, make_package: Callable[..., Path]) -> None:
    cache = small_disk / "cache"
    make_package(cache / "packages")
    with pytest.raises(OutOfSpace, match="no space left to write") as caught:
        prepare(cache)
    assert str(small_disk) in caught.value.brief
    assert "INN_CACHE_DIR" in caught.value.fix
    assert left_over(cache) == []


def test_a_cache_that_may_not_be_written(cache: Path) -> None:
    images = cache / "images"
    images.write_text("a file in the way")
    with pytest.raises(InnError, match="make the folder"):
        prepare(cache)


def test_atomic_files_have_the_mode_that_was_asked_for(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"1")
    write_atomic(tmp_path / "a", b"22", 0o644)
    assert (tmp_path / "a").read_bytes() == b"22"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644
    with pytest.raises(HostError):
        write_new(tmp_path / "a", b"")


def test_the_output_of_a_program() -> None:
    with program_output(["cat"], stage="test", stdin_bytes=b"x" * 300_000) as output:
        assert len(output.read()) == 300_000
    with program_output(["yes"], stage="test") as output:
        assert output.read(2) == b"y\n"
    with pytest.raises(HostError, match="exit code 3") as caught:
        with program_output(["sh", "-c", "echo why >&2; exit 3"], stage="test") as output:
            assert output.read() == b""
    assert caught.value.evidence == ("why",)

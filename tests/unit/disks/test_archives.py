# SPDX-License-Identifier: Apache-2.0
"""Disks through archives and back, damaged archives, and archives that others make."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest
import zstandard
from disk_archives import MIB, chromeos, disk_content, imported, ours, sink_in, write_disk, zipped
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from innkeeper.disks.frames import DiskEnd, DiskHead, end_frame, head_frame, skippable
from innkeeper.disks.moving import Moving
from innkeeper.disks.packing import pack
from innkeeper.disks.reading import Given, read_disk
from innkeeper.disks.source import Source
from innkeeper.disks.unpacking import Unpacker
from innkeeper.errors import DiskError, InnError

CONTENT = disk_content()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return write_disk(tmp_path / "disk", CONTENT)


def allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_a_disk_comes_back_and_keeps_its_holes(disk: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(ours(disk, name="data", fstype="ext4", fixed=True))
    content, out = imported(archive, tmp_path)
    assert out.read_bytes() == CONTENT
    assert allocated(out) <= allocated(disk) + 64 * 1024  # its list of extents
    assert content.head is not None
    assert (content.head.name, content.head.fstype, content.head.fixed) == ("data", "ext4", True)


def test_the_zstd_program_reads_it(disk: Path) -> None:
    done = subprocess.run(["zstd", "-dc"], input=ours(disk), capture_output=True, check=True)
    assert done.stdout == CONTENT


def test_the_digest_of_the_content_is_that_of_the_digests(disk: Path) -> None:
    out: list[bytes] = []
    with disk.open("rb") as file:
        head = DiskHead(size_bytes=len(CONTENT), data_bytes=0)
        written = pack(file.fileno(), head, out.append, moving=Moving("test"))
    chunks = (CONTENT[at : at + MIB] for at in range(0, len(CONTENT), MIB))
    digests = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
    assert written.content_digest == hashlib.sha256(digests).hexdigest()
    assert written.archive_sha256 == hashlib.sha256(b"".join(out)).hexdigest()
    assert written.archive_bytes == sum(map(len, out))


def test_holes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(3000 * MIB)
        file.seek(2000 * MIB + 5)
        file.write(b"x")
    archive = ours(disk)
    # Four bytes for each 128 KiB of a hole, as the format wants it, and 8 in the table.
    assert len(archive) < 200_000
    moving = Moving("test")
    with sink_in(tmp_path, limit=3000 * MIB) as sink:
        found = Unpacker(Source(io.BytesIO(archive), moving), sink).run()
    assert found.size_bytes == 3000 * MIB
    assert sink.data_bytes == 4096
    assert moving.done_bytes == len(archive)


@pytest.mark.parametrize("metadata_first", [True, False])
def test_an_archive_of_chromeos(tmp_path: Path, metadata_first: bool) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(chromeos(CONTENT, metadata_first=metadata_first))
    content, out = imported(archive, tmp_path)
    assert out.read_bytes() == CONTENT
    assert content.vm_type == "termina"


def test_the_digest_of_chromeos_is_compared(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(chromeos(CONTENT))
    digest = tmp_path / "archive.sha256.txt"
    digest.write_text(hashlib.sha256(archive.read_bytes()).hexdigest() + "\n")
    content, out = imported(archive, tmp_path)
    assert content.verified
    out.unlink()
    digest.write_text("0" * 64 + "\n")
    with pytest.raises(DiskError, match="not what the digest beside it says"):
        imported(archive, tmp_path)


def test_a_legacy_zip(tmp_path: Path) -> None:
    content, out = imported(zipped(tmp_path / "archive", CONTENT), tmp_path)
    assert (content.kind, out.read_bytes()) == ("zip", CONTENT)


def _tar(content: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        entry = tarfile.TarInfo("a" * 150 + "/vm.img")
        entry.size = len(content)
        entry.mtime = 0.5
        archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


OTHERS = {
    "gzip": lambda: gzip.compress(CONTENT),
    "two gzips": lambda: gzip.compress(CONTENT[:MIB]) + gzip.compress(CONTENT[MIB:]),
    "xz": lambda: lzma.compress(CONTENT, preset=0),
    "tar.gz": lambda: gzip.compress(_tar(CONTENT)),
    "raw": lambda: CONTENT,
    "one zstd frame": lambda: zstandard.ZstdCompressor().compress(CONTENT),
    "no size told": lambda: (
        zstandard.ZstdCompressor(write_content_size=False).compressobj().compress(CONTENT)
        or _streamed(CONTENT)
    ),
}


def _streamed(content: bytes) -> bytes:
    machine = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    return machine.compress(content) + machine.flush()


@pytest.mark.parametrize("kind", [*OTHERS])
def test_what_else_is_read(kind: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(_streamed(CONTENT) if kind == "no size told" else OTHERS[kind]())
    _, out = imported(archive, tmp_path)
    assert out.read_bytes() == CONTENT
    assert allocated(out) < len(CONTENT)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bz2.compress(b"x"), "bzip2 data"),
        (b"\x7fELF" + bytes(600), "a program"),
        (b"KDMV" + bytes(600), "a VMDK disk"),
        (_tar(b"x"), "a tar"),
        (b"", "empty"),
        (b"just a text" * 100, "neither a file system nor a partition table"),
        (zstandard.ZstdCompressor().compress(b"a text"), "neither a file system"),
        (gzip.compress(b"a text"), "neither a file system"),
        (CONTENT[:1111], "sectors"),
    ],
)
def test_what_is_no_disk_is_refused(data: bytes, said: str, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(data)
    with pytest.raises(DiskError, match=said):
        imported(archive, tmp_path)


def test_zips_that_are_no_disk(tmp_path: Path) -> None:
    several = tmp_path / "several"
    with zipfile.ZipFile(several, "w") as archive:
        archive.writestr("one", b"")
        archive.writestr("two", b"")
    with pytest.raises(DiskError, match="holds 2 files"):
        imported(several, tmp_path)
    (tmp_path / "out").unlink()
    whole = zipped(tmp_path / "whole", CONTENT).read_bytes()
    for data in (whole[:-10], whole[: len(whole) // 2] + b"\xff" + whole[len(whole) // 2 + 1 :]):
        (tmp_path / "broken").write_bytes(data)
        with pytest.raises(DiskError, match="damaged"):
            imported(tmp_path / "broken", tmp_path)
        (tmp_path / "out").unlink()


def _fails(data: bytes, folder: Path, *, limit: int = 64 * MIB) -> DiskError:
    (folder / "out").unlink(missing_ok=True)
    archive = folder / "archive"
    archive.write_bytes(data)
    with pytest.raises(DiskError) as caught, sink_in(folder, limit=limit) as sink:
        read_disk(Given(archive), sink, moving=Moving("test"))
    return caught.value


def test_every_truncation_is_noticed(disk: Path, tmp_path: Path) -> None:
    small = write_disk(tmp_path / "small", disk_content(2 * MIB, seed=5))
    for whole in (ours(small), chromeos(small.read_bytes())):
        cuts = {*range(0, 300, 7), *range(0, len(whole), len(whole) // 40)}
        cuts |= {len(whole) - back for back in range(1, 200, 9)}
        for cut in sorted(cuts - {0}):
            error = _fails(whole[:cut], tmp_path)
            assert error.brief.startswith(str(tmp_path))


def test_every_flipped_bit_is_noticed_and_its_place_told(tmp_path: Path) -> None:
    whole = ours(write_disk(tmp_path / "small", disk_content(2 * MIB, seed=6)))
    for at in range(0, len(whole), max(1, len(whole) // 150)):
        data = bytearray(whole)
        data[at] ^= 1 << at % 8
        error = _fails(bytes(data), tmp_path)
        assert any("byte" in line for line in error.evidence) or at < 200, (at, error.brief)


def test_archives_that_lie(tmp_path: Path) -> None:
    compress = zstandard.ZstdCompressor(write_content_size=True).compress
    chunk = disk_content(MIB)
    digest = hashlib.sha256(hashlib.sha256(chunk).digest()).hexdigest()
    head = head_frame(DiskHead(size_bytes=MIB, data_bytes=MIB))
    frame, end = compress(chunk), end_frame(DiskEnd(content_digest=digest, head_digest=""))
    cases = {
        "it ends early": head + frame + end,
        "in place of": head + frame + frame + end,
        "that its disk has": head_frame(DiskHead(size_bytes=1 << 62, data_bytes=0)) + frame,
        "its beginning is in its middle": frame + head,
        "data follows its end": head + frame + end + frame,
        "metadata has": skippable(0x184D2A5D, bytes(70_000)),
        "more frames than there are": frame + skippable(0x184D2A5E, bytes(5000)),
        "needs a dictionary": b"\x28\xb5\x2f\xfd\x21\x05\x05" + bytes(20),
        "of memory": b"\x28\xb5\x2f\xfd\x00\xff" + bytes(20),
    }
    for said, data in cases.items():
        assert said in _fails(data, tmp_path).brief


def test_a_bomb_ends_at_the_limit(tmp_path: Path) -> None:
    machine = zstandard.ZstdCompressor(level=19).compressobj()
    bomb = b"".join(machine.compress(bytes(8 * MIB)) for _ in range(32)) + machine.flush()
    assert len(bomb) < 100_000
    assert "more than 64M" in _fails(bomb, tmp_path).brief
    assert "more than 64M" in _fails(gzip.compress(bytes(100 * MIB)), tmp_path).brief


def test_a_zip_that_declares_too_much(tmp_path: Path) -> None:
    archive = zipped(tmp_path / "archive", bytes(100 * MIB))
    with pytest.raises(DiskError, match="more than 64M"):
        imported(archive, tmp_path, limit=64 * MIB)


@pytest.fixture(scope="module")
def small_archives(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("small")
    content = disk_content(160 * 1024, seed=9)
    disk = write_disk(folder / "disk", content)
    return [
        ours(disk),
        chromeos(content),
        _streamed(content),
        gzip.compress(content),
        gzip.compress(_tar(content)),
        zipped(folder / "zip", content).read_bytes(),
        lzma.compress(content, preset=0),
    ]


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_whatever_comes_is_a_disk_or_an_error(
    data: st.DataObject, small_archives: list[bytes], tmp_path: Path
) -> None:
    whole = data.draw(st.sampled_from(small_archives))
    broken = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(broken) - 1))
        end = at + data.draw(st.integers(0, 64))
        broken[at:end] = data.draw(st.binary(max_size=64))
        if not broken:
            return
    (tmp_path / "out").unlink(missing_ok=True)
    (tmp_path / "archive").write_bytes(broken)
    try:
        with sink_in(tmp_path) as sink:
            read_disk(Given(tmp_path / "archive"), sink, moving=Moving("test"))
    except InnError as error:
        assert error.brief  # noqa: PT017 - any of the tree will do
        return
    assert (tmp_path / "out").stat().st_size <= 64 * MIB

# SPDX-License-Identifier: Apache-2.0
"""Stored bundles: whole or not there, held by guests, checked by file name."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from innkeeper.errors import ImageError, NameInUse, UnknownName, UsageError
from innkeeper.images.bundles import (
    bundle_names,
    check_image_name,
    files_digest,
    find_bundle,
    finish_bundle,
    hold_bundle,
    parse_bundle,
    place_bundle,
    read_bundle,
    remove_bundle,
    verify_file,
)
from innkeeper.images.making import building
from innkeeper.model.bundle import BUNDLE_FILE, Bundle, StoredFile, StoredKernel


def store(
    images: Path, name: str = "box", content: bytes = b"root", *, force: bool = False
) -> bool:
    with building(images) as folder:
        (folder / "vmlinuz").write_bytes(b"kernel")
        (folder / "root.erofs").write_bytes(content)
        bundle = Bundle(
            name=name,
            digest="",
            kernels=(StoredKernel(flavour="cloud", release="6.1.0", file="vmlinuz"),),
            root="root.erofs",
            files=(),
        )
        bundle = finish_bundle(folder, bundle, ["vmlinuz", "root.erofs"])
        return place_bundle(images, folder, bundle, force=force)


def test_a_stored_bundle_is_found_whole(tmp_path: Path) -> None:
    assert store(tmp_path)
    bundle, folder = find_bundle(tmp_path, "box")
    assert folder == tmp_path / "box"
    assert [file.name for file in bundle.files] == ["root.erofs", "vmlinuz"]
    assert bundle.digest == files_digest(bundle.files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["box"]
    assert (folder / "root.erofs").stat().st_mode & 0o777 == 0o444


def test_an_unknown_image_is_told_with_the_nearest(tmp_path: Path) -> None:
    store(tmp_path, "debian-bookworm")
    with pytest.raises(UnknownName) as failure:
        find_bundle(tmp_path, "debian-bookwrom")
    assert "did you mean 'debian-bookworm'" in failure.value.fix
    for name in ("../box", ".build-x", "", "a/b"):
        with pytest.raises(UnknownName):
            find_bundle(tmp_path, name)


@pytest.mark.parametrize("name", ["tiny", "host", "A", "-a", "a/b", "..", "a" * 65, ""])
def test_names_that_no_image_may_have(name: str) -> None:
    with pytest.raises(UsageError):
        check_image_name(name)


def test_a_flipped_byte_is_told_by_file_name(tmp_path: Path) -> None:
    store(tmp_path)
    root = tmp_path / "box" / "root.erofs"
    root.chmod(0o644)
    root.write_bytes(b"rOot")
    bundle, folder = find_bundle(tmp_path, "box")
    verify_file(folder, bundle.files[1])
    with pytest.raises(ImageError, match=r"root\.erofs is damaged"):
        verify_file(folder, bundle.files[0])


def test_a_missing_or_short_file_is_told_at_once(tmp_path: Path) -> None:
    store(tmp_path)
    root = tmp_path / "box" / "root.erofs"
    root.chmod(0o644)
    root.write_bytes(b"r")
    with pytest.raises(ImageError, match=r"root\.erofs is damaged"):
        find_bundle(tmp_path, "box")
    root.unlink()
    with pytest.raises(ImageError, match=r"lost its file root\.erofs"):
        find_bundle(tmp_path, "box")


@pytest.mark.parametrize(
    "change",
    [
        {"root": "../../etc/passwd"},
        {"root": "other"},
        {"version": 2},
        {"digest": "0"},
        {"files": []},
        {"kernels": 7},
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    tmp_path: Path, change: dict[str, object]
) -> None:
    store(tmp_path)
    table = msgspec.json.decode((tmp_path / "box" / BUNDLE_FILE).read_bytes())
    with pytest.raises(ImageError):
        parse_bundle(msgspec.json.encode({**table, **change}), "x")


def test_names_of_files_stay_in_the_folder() -> None:
    files = (StoredFile(name="../x", size_bytes=1, sha256="0"),)
    bundle = Bundle(name="a", digest=files_digest(files), kernels=(), files=files)
    with pytest.raises(ImageError):
        parse_bundle(msgspec.json.encode(bundle), "x")


def test_the_same_build_again_changes_nothing_and_another_wants_force(tmp_path: Path) -> None:
    store(tmp_path)
    inode = (tmp_path / "box").stat().st_ino
    assert not store(tmp_path)
    with pytest.raises(UsageError, match="another image"):
        store(tmp_path, content=b"new")
    assert (tmp_path / "box").stat().st_ino == inode
    assert store(tmp_path, content=b"new", force=True)
    assert (tmp_path / "box" / "root.erofs").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["box"]


def test_a_damaged_bundle_is_not_the_same(tmp_path: Path) -> None:
    store(tmp_path)
    root = tmp_path / "box" / "root.erofs"
    root.chmod(0o644)
    root.write_bytes(b"rOot")
    assert store(tmp_path, force=True)
    assert root.read_bytes() == b"root"


def test_a_held_bundle_is_neither_removed_nor_replaced(tmp_path: Path) -> None:
    store(tmp_path)
    digest = read_bundle(tmp_path / "box").digest
    with hold_bundle(tmp_path, "box", digest), hold_bundle(tmp_path, "box", digest):
        with pytest.raises(NameInUse, match="running guest"):
            remove_bundle(tmp_path, "box")
        with pytest.raises(NameInUse, match="running guest"):
            store(tmp_path, content=b"new", force=True)
    # Between the plan of a start and its guest, there is nobody to hold it.
    store(tmp_path, content=b"new", force=True)
    with pytest.raises(NameInUse, match="was replaced at this moment"):
        hold_bundle(tmp_path, "box", digest)
    remove_bundle(tmp_path, "box")
    assert bundle_names(tmp_path) == ()
    with pytest.raises(UnknownName):
        hold_bundle(tmp_path, "box", digest)


def test_what_a_killed_build_left_is_swept_and_a_living_one_is_not(tmp_path: Path) -> None:
    dead = tmp_path / ".build-0123456789ab"
    (dead / "tree").mkdir(parents=True)
    with building(tmp_path) as living:
        assert not dead.exists()
        with building(tmp_path) as other:
            assert living.is_dir()
            assert other != living
    assert list(tmp_path.iterdir()) == []

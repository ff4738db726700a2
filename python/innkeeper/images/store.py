# SPDX-License-Identifier: Apache-2.0
"""The image cache: bundles named by what they were made from, there whole or not at all.

::

    <cache>/images/            locked (flock) while something is built in it
      inputs.json              what files had which digest, by their stat
      tiny-0123456789ab/       kernel, [vmlinuz,] initrd, manifest.json
      .build-*                 a build under way, or what a killed one left

A bundle is looked up without the lock and without reading its inputs, as long as
their size, times and inode are what they were.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from innkeeper.errors import HostError, ImageError
from innkeeper.model.image import Image
from innkeeper.system.files import (
    file_error,
    make_folder,
    move_folder,
    naming_errors,
    remove_folder,
    temporary_folder,
    write_atomic,
    write_new,
)
from innkeeper.system.locks import lock_folder

_DAY_S = 24 * 3600.0
_KEEP_DAYS = 30
_DIGEST_CHARACTERS = 12
_LEDGER_MAXIMUM = 256
# A file this young may change again without its stat showing it.
_SETTLED_S = 1.0


class Stamp(msgspec.Struct, frozen=True, array_like=True):
    """The digest of a file, and the stat by which to know that it is unchanged."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    sha256: str

    def fits(self, info: os.stat_result) -> bool:
        """True when a file has this stat."""
        return (self.size, self.mtime_ns, self.ctime_ns, self.inode) == (
            info.st_size,
            info.st_mtime_ns,
            info.st_ctime_ns,
            info.st_ino,
        )


class KernelNote(msgspec.Struct, frozen=True):
    """What was found out about a user's kernel.

    :ivar watched: the digest of each file that this depends on, by path.
    :ivar folder: of its modules; "" where there are none.
    """

    watched: dict[str, str]
    release: str
    folder: str


class _Ledger(msgspec.Struct):
    files: dict[str, Stamp] = msgspec.field(default_factory=dict)
    kernels: dict[str, KernelNote] = msgspec.field(default_factory=dict)


class Inputs:
    """Digests of input files, remembered from one start to the next."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = False
        try:
            self._ledger = msgspec.json.decode(path.read_bytes(), type=_Ledger)
        except (OSError, msgspec.MsgspecError):
            self._ledger = _Ledger()

    def knows(self, path: Path) -> bool:
        """True when a file need not be read to tell its digest."""
        known = self._ledger.files.get(str(path))
        with contextlib.suppress(OSError):
            return known is not None and known.fits(path.stat())
        return False

    def digest(self, path: Path) -> str:
        """The SHA-256 of a file, in hex.

        :raise ImageError: it cannot be read.
        """
        try:
            info = path.stat()
            known = self._ledger.files.get(str(path))
            if known is not None and known.fits(info):
                return known.sha256
            with path.open("rb") as file:
                sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as exc:
            raise ImageError(f"cannot read {path}: {exc.strerror}", stage="image") from exc
        if time.time() - max(info.st_mtime, info.st_ctime) > _SETTLED_S:
            self._ledger.files.pop(str(path), None)
            self._ledger.files[str(path)] = Stamp(
                info.st_size, info.st_mtime_ns, info.st_ctime_ns, info.st_ino, sha256
            )
            self._changed = True
        return sha256

    def kernel_note(self, path: Path) -> KernelNote | None:
        """What is known of a user's kernel, if its files are still the same."""
        note = self._ledger.kernels.get(str(path))
        if note is None:
            return None
        with contextlib.suppress(ImageError):
            if all(self.digest(Path(name)) == known for name, known in note.watched.items()):
                return note
        return None

    def note_kernel(self, path: Path, note: KernelNote) -> None:
        """Remember something about a user's kernel."""
        self._ledger.kernels.pop(str(path), None)
        self._ledger.kernels[str(path)] = note
        self._changed = True

    def save(self) -> None:
        """Write down what is new. A cache that cannot be written only costs time."""
        if not self._changed:
            return
        for table in (self._ledger.files, self._ledger.kernels):
            for key in list(table)[:-_LEDGER_MAXIMUM]:
                table.pop(key)
        with contextlib.suppress(HostError):
            make_folder(self._path.parent)
            write_atomic(self._path, msgspec.json.encode(self._ledger))
            self._changed = False


class Store:
    """The images in a cache folder."""

    def __init__(self, cache_dir: Path) -> None:
        self.folder = cache_dir / "images"
        self.inputs = Inputs(self.folder / "inputs.json")

    def _bundle(self, name: str, digest: str) -> Path:
        return self.folder / f"{name}-{digest[:_DIGEST_CHARACTERS]}"

    def find(self, name: str, digest: str) -> Image | None:
        """The finished bundle made from these inputs, or None. Marks it as used."""
        bundle = self._bundle(name, digest)
        manifest = bundle / "manifest.json"
        try:
            info = manifest.stat()
            image = _absolute(msgspec.json.decode(manifest.read_bytes(), type=Image), bundle)
            if (
                image.digest != digest
                or Path(image.kernel).stat().st_size != image.kernel_bytes
                or Path(image.initrd).stat().st_size != image.initrd_bytes
                or not Path(image.kernel_source).exists()
            ):
                return None
        except (OSError, msgspec.MsgspecError):
            return None
        if time.time() - info.st_mtime > _DAY_S:
            with contextlib.suppress(OSError):
                os.utime(manifest)
        return image

    def find_or_build(self, name: str, digest: str, build: Callable[[Path], Image]) -> Image:
        """The bundle made from these inputs, built now if there is none.

        :param build: writes the files into the folder it is given and returns the
            image, with names relative to that folder.
        :raise OutOfSpace: the disk is full; nothing of the build is left.
        :raise HostError: the cache cannot be written.
        """
        image = self.find(name, digest)
        if image is not None:
            return image
        with self._locked():
            # Somebody else may have built it meanwhile.
            image = self.find(name, digest)
            if image is not None:
                return image
            self._sweep()
            with temporary_folder(self.folder) as folder:
                self._fill(folder, build, digest)
                bundle = self._bundle(name, digest)
                if not move_folder(folder, bundle):
                    # A damaged one: find() would have taken it otherwise.
                    remove_folder(bundle)
                    move_folder(folder, bundle)
        image = self.find(name, digest)
        if image is None:
            raise ImageError(
                f"the image {bundle} cannot be read back", stage="image", fix=f"rm -r {bundle}"
            )
        return image

    def _fill(self, folder: Path, build: Callable[[Path], Image], digest: str) -> None:
        image = build(folder)
        if image.digest != digest:
            raise ImageError("the image does not have the digest it was asked for", stage="image")
        text = msgspec.json.format(msgspec.json.encode(image), indent=2)
        write_new(folder / "manifest.json", text, 0o644)
        with naming_errors(folder, doing="change the mode of"):
            folder.chmod(0o755)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else builds in this cache; waits for who does."""
        make_folder(self.folder)
        try:
            lock = lock_folder(self.folder)
        except OSError as exc:
            raise file_error(exc, self.folder, doing="lock", stage="image") from exc
        with lock:
            yield

    def collect(self) -> list[tuple[Path, int]]:
        """Remove what dead builders left and what is long unused; paths and sizes of it."""
        if not self.folder.is_dir():
            return []
        with self._locked():
            before = {path: _size(path) for path in self.folder.iterdir() if path.is_dir()}
            self._sweep()
            return [(path, size) for path, size in before.items() if not path.exists()]

    def _sweep(self) -> None:
        """Remove what dead builders left (nobody else builds now) and what is long unused."""
        for path in self.folder.glob(".*"):
            if path.name.startswith(".build-"):
                shutil.rmtree(path, ignore_errors=True)
            elif path.name.startswith(".inputs.json."):
                path.unlink(missing_ok=True)
        oldest = time.time() - _KEEP_DAYS * _DAY_S
        for bundle in self.folder.glob("*-*/"):
            with contextlib.suppress(OSError):
                used = bundle / "manifest.json"
                if (used if used.exists() else bundle).stat().st_mtime < oldest:
                    remove_folder(bundle)


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())


def _absolute(image: Image, bundle: Path) -> Image:
    """Names in a manifest are relative to its folder, so that a cache can be moved."""
    return msgspec.structs.replace(
        image,
        kernel=str(bundle / image.kernel),
        kernel_source=str(bundle / image.kernel_source),
        initrd=str(bundle / image.initrd),
    )

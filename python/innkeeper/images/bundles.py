# SPDX-License-Identifier: Apache-2.0
"""Stored bundles: found, held by their users, checked, put in place and removed.

::

    <state>/images/            locked (flock) for moments: making, naming, sweeping
      NAME/                    a bundle (`innkeeper.model.bundle`); whole or not there
      .parts/SHA256.part       a download that is under way or was interrupted
      .build-*                 locked by who builds in it (`innkeeper.images.making`)

A guest holds a shared lock on its bundle's folder. Who removes or replaces a bundle
takes the exclusive one, and is refused while there is a guest.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from innkeeper.errors import HostError, ImageError, InnError, NameInUse, UnknownName, UsageError
from innkeeper.model.bundle import ARCH, BUNDLE_FILE, Bundle, StoredFile, is_tools_place
from innkeeper.system.files import (
    file_error,
    move_folder,
    naming_errors,
    remove_folder,
    replace_folder,
    sync_file,
    write_new,
)
from innkeeper.system.locks import FileLock, share_folder, try_lock_folder

# Names that mean something else wherever an image is named.
BUILT_IN = ("tiny",)
_RESERVED = (*BUILT_IN, "host")

# It is a folder's name, and part of what users type.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,62}[a-z0-9])?")
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,127}")
_MANIFEST_MAXIMUM_BYTES = 4 << 20


def check_image_name(name: str) -> str:
    """The name itself, if a stored image may be called so.

    :raise UsageError: it may not.
    """
    if _NAME.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} is not an image name",
            stage="image",
            fix="use 1 to 64 of a-z, 0-9, '.', '_' and '-', a letter or digit at both ends",
        )
    if name in _RESERVED:
        raise UsageError(
            f"the name {name!r} is taken by innkeeper itself",
            stage="image",
            fix="choose another name",
        )
    return name


def bundle_names(images: Path) -> tuple[str, ...]:
    """The names of all stored bundles, sorted.

    :param images: the folder of bundles, `layout.images`.
    """
    with contextlib.suppress(OSError):
        return tuple(
            sorted(
                path.name
                for path in images.iterdir()
                if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
            )
        )
    return ()


def find_bundle(images: Path, name: str) -> tuple[Bundle, Path]:
    """A stored bundle and its folder; the sizes of its files are right, their digests unread.

    :param images: the folder of bundles, `layout.images`.
    :raise UnknownName: there is none with this name; the nearest are told.
    :raise ImageError: its manifest or a file of it is missing or damaged; it is named.
    """
    folder = images / name
    if _NAME.fullmatch(name) is None or not folder.is_dir() or folder.is_symlink():
        raise UnknownName("image", name, (*BUILT_IN, *bundle_names(images)), stage="image")
    bundle = read_bundle(folder)
    for file in bundle.files:
        _check_size(folder, file)
    return bundle, folder


def read_bundle(folder: Path) -> Bundle:
    """The manifest of a bundle's folder.

    :raise ImageError: it is missing, damaged or names files that cannot be of a bundle.
    """
    path = folder / BUNDLE_FILE
    try:
        with path.open("rb") as file:
            text = file.read(_MANIFEST_MAXIMUM_BYTES + 1)
    except OSError as exc:
        raise ImageError(
            f"{folder} is not a bundle: cannot read {BUNDLE_FILE}: {exc.strerror}",
            stage="image",
            fix=_again(folder),
        ) from exc
    return parse_bundle(text, str(path), fix=_again(folder))


def parse_bundle(text: bytes, source: str, *, fix: str = "") -> Bundle:
    """The bundle that a manifest describes; every name in it is that of a listed, plain file.

    :param source: for errors.
    :raise ImageError: it is none.
    """
    try:
        if len(text) > _MANIFEST_MAXIMUM_BYTES:
            raise ImageError(f"{source} is too large for a manifest", stage="image", fix=fix)
        bundle = msgspec.json.decode(text, type=Bundle)
    except msgspec.MsgspecError as exc:
        raise ImageError(
            f"{source} is damaged", stage="image", evidence=(str(exc),), fix=fix
        ) from exc
    if bundle.version != 1:
        raise ImageError(
            f"{source} has version {bundle.version}; this innkeeper reads version 1",
            stage="image",
            fix="use the innkeeper that made it, or build the image again",
        )
    known = {file.name for file in bundle.files}
    wanted = {name for name in (bundle.root, bundle.tools) if name}
    for kernel in bundle.kernels:
        wanted |= {name for name in (kernel.file, kernel.modules_file) if name}
    wrong = [name for name in known if _FILE_NAME.fullmatch(name) is None or name == BUNDLE_FILE]
    if not is_tools_place(bundle.tools_at):
        wrong.append(bundle.tools_at)
    if wrong or wanted - known or len(known) != len(bundle.files):
        names = ", ".join(repr(name) for name in sorted({*wrong, *(wanted - known)}))
        raise ImageError(
            f"{source} is damaged",
            stage="image",
            evidence=(f"not files of a bundle: {names or 'one is there twice'}",),
            fix=fix,
        )
    if bundle.digest != files_digest(bundle.files):
        raise ImageError(
            f"{source} is damaged: its digest is not that of its files", stage="image", fix=fix
        )
    return bundle


def files_digest(files: Iterable[StoredFile]) -> str:
    """The digest of a bundle: SHA-256 over its files' names and digests, in hex."""
    lines = sorted(f"{file.sha256}  {file.name}\n" for file in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def store_file(path: Path) -> StoredFile:
    """The entry of a file as it is now.

    :raise HostError: it cannot be read.
    """
    with naming_errors(path, doing="read", stage="image"), path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return StoredFile(name=path.name, size_bytes=file.tell(), sha256=sha256)


def verify_file(folder: Path, file: StoredFile) -> None:
    """Read a whole file and compare.

    :raise ImageError: it is not what was stored; it is named.
    """
    _check_size(folder, file)
    check_digest(folder, file, store_file(folder / file.name).sha256, stage="verify")


def check_digest(folder: Path, file: StoredFile, sha256: str, *, stage: str) -> None:
    """Compare the digest of a file with what the manifest says.

    :raise ImageError: it is another one; the file is named.
    """
    if sha256 != file.sha256:
        raise ImageError(
            f"the file {folder / file.name} is damaged",
            stage=stage,
            evidence=(f"its SHA-256 is {sha256}", f"the manifest says {file.sha256}"),
            fix=_again(folder),
        )


def check_arch(bundle: Bundle, *, stage: str) -> None:
    """See that a bundle is for the machine that guests are.

    :raise ImageError: it is for another one.
    """
    if bundle.arch != ARCH:
        raise ImageError(
            f"the image {bundle.name} is for {bundle.arch}, and guests are {ARCH}",
            stage=stage,
            fix=f"build it or install it for {ARCH}",
        )


def verify_bundle(images: Path, name: str) -> list[InnError]:
    """Read a whole bundle; what is wrong with it, an error for each file.

    :raise UnknownName: there is none with this name.
    """
    folder = images / name
    if name not in bundle_names(images):
        raise UnknownName("image", name, bundle_names(images), stage="verify")
    errors: list[InnError] = []
    try:
        files = read_bundle(folder).files
    except InnError as error:
        return [error]
    for file in files:
        try:
            verify_file(folder, file)
        except InnError as error:
            errors.append(error)
    return errors


def _check_size(folder: Path, file: StoredFile) -> None:
    path = folder / file.name
    try:
        info = path.lstat()
    except OSError as exc:
        raise ImageError(
            f"the image {folder.name} has lost its file {file.name}",
            stage="image",
            evidence=(f"{path}: {exc.strerror}",),
            fix=_again(folder),
        ) from exc
    if info.st_size != file.size_bytes or path.is_symlink():
        raise ImageError(
            f"the file {path} is damaged",
            stage="image",
            evidence=(f"it has {info.st_size} bytes, the manifest says {file.size_bytes}",),
            fix=_again(folder),
        )


def _again(folder: Path) -> str:
    return f"build, import or install the image {folder.name} again with --force"


def hold_bundle(images: Path, name: str, digest: str) -> FileLock:
    """Keep a bundle from being removed or replaced for as long as the lock is not released.

    Any number of guests hold it at once; the kernel releases it when a holder dies.

    :param digest: of the bundle that is meant.
    :raise UnknownName: there is none with this name.
    :raise NameInUse: it is being removed or replaced at this moment, or was just now.
    """
    folder = images / name
    try:
        lock = share_folder(folder)
    except FileNotFoundError as exc:
        known = (*BUILT_IN, *bundle_names(images))
        raise UnknownName("image", name, known, stage="image") from exc
    except OSError as exc:
        raise file_error(exc, folder, doing="lock", stage="image") from exc
    if lock is None:
        raise NameInUse(
            f"the image {name!r} is being removed or replaced", stage="image", fix="try again"
        )
    try:
        there = read_bundle(folder).digest
    except BaseException:
        lock.release()
        raise
    if there != digest:
        lock.release()
        raise NameInUse(
            f"the image {name!r} was replaced at this moment", stage="image", fix="try again"
        )
    return lock


@contextlib.contextmanager
def _alone(images: Path, name: str, *, verb: str) -> Iterator[None]:
    """No guest uses the bundle, and none starts to.

    :raise NameInUse: a guest uses it.
    """
    folder = images / name
    with naming_errors(folder, doing="lock", stage="image"):
        lock = try_lock_folder(folder)
    if lock is None:
        raise NameInUse(
            f"cannot {verb} the image {name!r}: a running guest uses it",
            stage="image",
            fix="`inn ls --running` names the guests; stop those of this image first",
        )
    with lock:
        yield


def remove_bundle(images: Path, name: str) -> None:
    """Remove a bundle. Its machines are the caller's concern.

    :raise UnknownName: there is none with this name.
    :raise NameInUse: a running guest uses it.
    """
    folder = images / name
    if name not in bundle_names(images):
        raise UnknownName("image", name, bundle_names(images), stage="image")
    with _alone(images, name, verb="remove"):
        remove_folder(folder)
    if folder.exists():
        raise HostError(f"cannot remove {folder}", stage="image", fix="look at its permissions")


def finish_bundle(folder: Path, bundle: Bundle, names: Iterable[str]) -> Bundle:
    """Write the manifest of a folder in the making, whose files are complete and get synced.

    :param names: the files of the bundle; what else is in the folder is the caller's to remove.
    :return: the bundle with its files and digest filled in.
    """
    for name in names:
        with naming_errors(folder / name, doing="write", stage="image"):
            (folder / name).chmod(0o444)
            sync_file(folder / name)
    files = tuple(store_file(folder / name) for name in sorted(names))
    bundle = msgspec.structs.replace(bundle, files=files, digest=files_digest(files))
    text = msgspec.json.format(msgspec.json.encode(bundle), indent=2)
    write_new(folder / BUNDLE_FILE, text + b"\n", 0o444)
    return bundle


def place_bundle(images: Path, folder: Path, bundle: Bundle, *, force: bool) -> bool:
    """Give a finished folder its name, all or nothing.

    :param force: replace a bundle with another digest.
    :return: False when the same bundle was there already; `folder` is untouched then.
    :raise UsageError: there is another one with this name, and no `force`.
    :raise NameInUse: a running guest uses the one to be replaced.
    """
    check_image_name(bundle.name)
    target = images / bundle.name
    with naming_errors(folder, doing="change the mode of"):
        folder.chmod(0o755)
    if move_folder(folder, target):
        return True
    if _is_same(target, bundle):
        return False
    if not force:
        raise UsageError(
            f"there is another image named {bundle.name!r}",
            stage="image",
            fix=f"add --force to replace it, or choose another name; "
            f"`inn image inspect {bundle.name}` shows it",
        )
    with _alone(images, bundle.name, verb="replace"):
        replace_folder(folder, target)
    return True


def _is_same(target: Path, bundle: Bundle) -> bool:
    with contextlib.suppress(ImageError):
        there = read_bundle(target)
        for file in there.files:
            verify_file(target, file)
        # Where it came from does not count, only what it is.
        return msgspec.structs.replace(there, recipe={}) == msgspec.structs.replace(
            bundle, recipe={}
        )
    return False

# SPDX-License-Identifier: Apache-2.0
"""Files that are there whole or not at all.

Everything that fails here says which path it was: a full disk is `OutOfSpace`,
the rest is `HostError`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from innkeeper.errors import HostError, InnError, OutOfSpace

# fcntl.h and linux/fs.h
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2

_PIECE_BYTES = 64 * 1024
# Descriptions and records are a few KiB.
WHOLE_LIMIT_BYTES = 1 << 20

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)


def file_error(exc: OSError, path: Path | str, *, doing: str, stage: str = "") -> InnError:
    """The error of the tree for an `OSError` on a path.

    :param doing: a verb for the sentence, such as "write".
    """
    if exc.errno in _FULL:
        return OutOfSpace(
            f"no space left to {doing} {path}",
            stage=stage,
            evidence=(os.strerror(exc.errno or 0),),
            fix="free some space there, or name folders on another disk by INN_STATE_DIR, "
            "INN_CACHE_DIR and INN_RUNTIME_DIR",
        )
    if exc.errno in _DENIED:
        return HostError(
            f"no permission to {doing} {path}",
            stage=stage,
            evidence=(os.strerror(exc.errno or 0),),
            fix=f"look at the owner and mode: ls -ld {path}",
        )
    return HostError(f"cannot {doing} {path}: {exc.strerror or exc}", stage=stage)


@contextlib.contextmanager
def naming_errors(path: Path | str, *, doing: str, stage: str = "") -> Iterator[None]:
    """Turn any `OSError` of the block into the error for this path."""
    try:
        yield
    except OSError as exc:
        raise file_error(exc, exc.filename or path, doing=doing, stage=stage) from exc


def sync_folder(path: Path) -> None:
    """Bring the names in a folder to the disk.

    :raise OSError: it cannot be opened or synced.
    """
    _sync(path, os.O_DIRECTORY)


def sync_file(path: Path) -> None:
    """Bring the content of a file, which another program wrote, to the disk.

    :raise OSError: it cannot be opened or synced.
    """
    _sync(path, os.O_NOFOLLOW)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def read_whole(path: str) -> bytes:
    """The content of a regular file, by as few system calls as there can be.

    :raise OSError: it cannot be read, or is larger than `WHOLE_LIMIT_BYTES`.
    """
    # A pipe put in a file's place must not hold anybody up.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        data = piece = os.read(fd, _PIECE_BYTES)
        # A regular file gives less than was asked for only at its end.
        while len(piece) == _PIECE_BYTES:
            piece = os.read(fd, _PIECE_BYTES)
            data += piece
            if len(data) > WHOLE_LIMIT_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
        return data
    finally:
        os.close(fd)


def write_new(path: Path, data: bytes | memoryview, mode: int = 0o600) -> None:
    """Write a file that does not exist yet and bring it to the disk; no file is left on failure.

    :raise OutOfSpace: the disk is full.
    :raise HostError: any other failure.
    """
    with naming_errors(path, doing="write"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with open(fd, "wb", buffering=0) as file:
                os.fchmod(file.fileno(), mode)
                left = memoryview(data)
                while left:
                    left = left[file.write(left) :]
                os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise


def write_volatile(path: Path, data: bytes | memoryview, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old one or the new one; a crash may lose both.

    For runtime folders, which do not outlive the host's boot anyway.

    :raise OutOfSpace: the disk is full; the old file is untouched.
    :raise HostError: any other failure; likewise.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    with naming_errors(path, doing="write"):
        try:
            fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with open(fd, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise


def write_atomic(path: Path, data: bytes | memoryview, mode: int = 0o600) -> None:
    """Write a file so that a reader sees the old one or the new one, also after a crash.

    :raise OutOfSpace: the disk is full; the old file is untouched.
    :raise HostError: any other failure; likewise.
    """
    temporary = path.with_name(f".{path.name}.{os.urandom(6).hex()}")
    write_new(temporary, data, mode)
    with naming_errors(path, doing="write"):
        try:
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(path.parent)


def folder_size_bytes(path: Path | str) -> int:
    """What a folder and all in it take on the disk, as `du` counts; 0 where there is none."""
    blocks: dict[tuple[int, int], int] = {}
    waiting = [os.fspath(path)]
    with contextlib.suppress(OSError):
        stat = os.stat(path)
        blocks[stat.st_dev, stat.st_ino] = stat.st_blocks
    while waiting:
        # A file that goes while it is counted does not count.
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as found:
            for item in found:
                stat = item.stat(follow_symlinks=False)
                blocks[stat.st_dev, stat.st_ino] = stat.st_blocks
                if item.is_dir(follow_symlinks=False):
                    waiting.append(item.path)
    return sum(blocks.values()) * 512


def open_append(path: Path | str, mode: int = 0o600) -> int:
    """A descriptor for writing at the end of a file, made where missing; the caller closes it.

    :raise HostError: it cannot be opened.
    """
    with naming_errors(path, doing="write"):
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, mode)


def close_descriptor(fd: int) -> None:
    """Close what :func:`open_append` gave."""
    os.close(fd)


def make_folder(path: Path, mode: int = 0o700) -> None:
    """A folder with its parents; one that exists is fine and keeps its mode.

    :raise HostError: it cannot be made, or a file is in the way.
    """
    with naming_errors(path, doing="make the folder"):
        path.mkdir(mode, parents=True, exist_ok=True)


@contextlib.contextmanager
def temporary_folder(parent: Path, prefix: str = ".build-") -> Iterator[Path]:
    """A new folder (mode 0700) that is removed at the end, unless it was moved away.

    :raise OutOfSpace: the disk is full.
    :raise HostError: it cannot be made.
    """
    with naming_errors(parent, doing="make a folder in"):
        folder = parent / f"{prefix}{os.urandom(6).hex()}"
        folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        remove_tree(folder)


def move_folder(source: Path, target: Path) -> bool:
    """Give a finished folder its name, all or nothing, also after a crash.

    Both have to be in the same file system. The files in it are the caller's to
    sync (:func:`write_new` does).

    :return: False when `target` was there already; `source` is untouched then.
    :raise HostError: the rename failed for another reason.
    """
    with naming_errors(target, doing="make the folder"):
        sync_folder(source)
        try:
            os.rename(source, target)
        except OSError as exc:
            if exc.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
        sync_folder(target.parent)
    return True


def replace_folder(source: Path, target: Path) -> None:
    """Put a finished folder in another's place and remove the other.

    Both change their names at once, where the file system can (renameat2(2)); at no
    moment is there nothing with the name `target` then.

    :raise HostError: it could not be renamed; the old one is untouched.
    """
    with naming_errors(target, doing="replace"):
        sync_folder(source)
        if exchange(source, target):
            remove_folder(source)
        else:
            remove_folder(target)
            os.rename(source, target)
        sync_folder(target.parent)


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names; False where the file system cannot do it.

    :raise OSError: as renameat2(2).
    """
    import ctypes  # 4 ms that `inn ls` need not pay

    names = os.fsencode(one), os.fsencode(other)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


def remove_tree(path: Path) -> None:
    """Remove a folder and what is in it, as far as that is possible."""
    import shutil  # with three compressors: 4 ms that `inn ls` need not pay

    shutil.rmtree(path, ignore_errors=True)


def remove_folder(path: Path) -> None:
    """Remove a folder and what is in it, as far as that is possible.

    The name goes first, by a rename, so that nobody sees half of it.
    """
    gone = path.with_name(f".build-gone-{os.urandom(6).hex()}")
    with contextlib.suppress(OSError):
        os.rename(path, gone)
        path = gone
    remove_tree(path)

# SPDX-License-Identifier: Apache-2.0
"""File locks that the kernel releases when their holder dies (flock(2))."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import Self


class FileLock:
    """A lock on a file or folder, held from construction by a function here to :meth:`release`."""

    def __init__(self, fd: int, path: Path) -> None:
        self._fd = fd
        self.path = path

    def fileno(self) -> int:
        """The descriptor, for handing the lock to a child."""
        return self._fd

    def in_place(self) -> bool:
        """False once somebody removed or replaced what is locked."""
        with contextlib.suppress(OSError):
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path, follow_symlinks=False))
        return False

    def release(self) -> None:
        """Give the lock up. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


def try_lock(path: Path) -> FileLock | None:
    """The lock on `path`, or None when somebody else holds it.

    The file is created where it does not exist. A file that was unlinked
    between open and lock is not the lock any more, and is tried again.

    :raise OSError: the file cannot be opened.
    """
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        except BaseException:
            os.close(fd)
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                return FileLock(fd, path)
        os.close(fd)


def lock_folder(path: Path) -> FileLock:
    """The lock on a folder itself, which leaves no lock file in it; waits for its holder.

    :raise OSError: the folder cannot be opened.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except BaseException:
        os.close(fd)
        raise
    return FileLock(fd, path)


def try_lock_folder(path: Path) -> FileLock | None:
    """As :func:`lock_folder`, but None when somebody holds it, alone or shared.

    :raise OSError: the folder cannot be opened, or is not there any more.
    """
    return _lock_named_folder(path, fcntl.LOCK_EX)


def share_folder(path: Path) -> FileLock | None:
    """A lock on a folder that any number may share; None when somebody has it alone.

    :raise OSError: the folder cannot be opened, or is not there any more.
    """
    return _lock_named_folder(path, fcntl.LOCK_SH)


def _lock_named_folder(path: Path, kind: int) -> FileLock | None:
    """A folder that was renamed between open and lock is not the one meant, and is tried again."""
    while True:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        lock = FileLock(fd, path)
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False)):
                return lock
        except BlockingIOError:
            lock.release()
            return None
        except BaseException:
            lock.release()
            raise
        lock.release()


def is_locked(path: Path | str) -> bool:
    """True when somebody holds the lock; a file that does not exist is not locked."""
    try:
        # Reading is enough for flock(2), also where the file system is read-only.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False

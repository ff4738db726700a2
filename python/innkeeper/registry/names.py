# SPDX-License-Identifier: Apache-2.0
"""Names of guests: a name is a lock, and a folder whose lock nobody holds is dead."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from innkeeper.errors import HostError, NameInUse
from innkeeper.model.record import Record
from innkeeper.registry.layout import GuestFolder, Layout
from innkeeper.system.files import remove_tree, write_volatile
from innkeeper.system.locks import FileLock, is_locked, lock_folder, try_lock

# Letters and digits that cannot be mistaken for each other.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"

# Dynamic CIDs start at 32; 0 to 2 are special and the rest are for static ones.
FIRST_DYNAMIC_CID = 32


def ephemeral_name() -> str:
    """A name for a guest that nobody named, such as "run-x7k2p9"."""
    import secrets  # 5 ms, for `inn run` alone

    return "run-" + "".join(secrets.choice(_ALPHABET) for _ in range(6))


class Claim:
    """A name that is ours: its folder, its lock and its CID, until :meth:`release`."""

    def __init__(self, folder: GuestFolder, lock: FileLock, guest_cid: int) -> None:
        self.folder = folder
        self.guest_cid = guest_cid
        self._lock = lock

    def write_state(self, record: Record) -> None:
        """Replace the state file as a whole."""
        write_volatile(self.folder.state, msgspec.json.encode(record))

    def release(self) -> None:
        """Remove the folder, then give the name up. Idempotent."""
        remove_tree(self.folder.path)
        self._lock.release()


def claim(layout: Layout, name: str) -> Claim:
    """Take a name, make its folder and give it a CID that no other guest here has.

    Folders of dead guests are swept on the way, so that a host recovers from
    anything by the next start.

    :raise NameInUse: a running guest has the name.
    :raise HostError: the folder cannot be made.
    """
    folder = layout.guest(name)
    try:
        with lock_folder(layout.runtime):
            _sweep(layout)
            folder.path.mkdir(mode=0o700, exist_ok=True)
            lock = try_lock(folder.lock)
            if lock is None:
                raise _name_in_use(folder, name)
            made = Claim(folder, lock, _free_cid(layout, name))
            made.write_state(
                Record(
                    name=name,
                    state="starting",
                    changed_at=time.time(),
                    keeper_pid=os.getpid(),
                    guest_cid=made.guest_cid,
                )
            )
            return made
    except OSError as exc:
        raise HostError(
            f"cannot prepare the runtime folder {folder.path}: {exc.strerror}", stage="folders"
        ) from exc


def check_free(layout: Layout, name: str) -> None:
    """Refuse early a name that is taken; :func:`claim` decides for good.

    :raise NameInUse: a running guest has the name.
    """
    folder = layout.guest(name)
    if is_locked(folder.lock):
        raise _name_in_use(folder, name)


def read_state(folder: GuestFolder) -> Record | None:
    """The state file of a guest; None where it is missing or unreadable."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(folder.state.read_bytes(), type=Record)
    return None


def running_guests(layout: Layout) -> dict[str, Record]:
    """The guests whose keepers live, by name; read from the disk alone."""
    found = {}
    for path in _guest_paths(layout):
        folder = GuestFolder(path)
        if is_locked(folder.lock) and (record := read_state(folder)) is not None:
            found[path.name] = record
    return found


def remove_dead(layout: Layout, name: str) -> None:
    """Remove the folder of a guest whose keeper is gone; one that lives keeps it."""
    folder = layout.guest(name)
    with lock_folder(layout.runtime):
        if folder.path.is_dir() and not is_locked(folder.lock):
            remove_tree(folder.path)


def sweep(layout: Layout) -> tuple[str, ...]:
    """Remove the folders of dead guests; returns their names."""
    with lock_folder(layout.runtime):
        return _sweep(layout)


def _sweep(layout: Layout) -> tuple[str, ...]:
    swept = []
    for path in _guest_paths(layout):
        folder = GuestFolder(path)
        lock = try_lock(folder.lock)
        if lock is None:
            continue
        remove_tree(path)
        lock.release()
        swept.append(path.name)
    return tuple(swept)


def _guest_paths(layout: Layout) -> list[Path]:
    with contextlib.suppress(OSError):
        return [
            path
            for path in layout.runtime.iterdir()
            if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")
        ]
    return []


def _free_cid(layout: Layout, own_name: str) -> int:
    states = (
        read_state(GuestFolder(path)) for path in _guest_paths(layout) if path.name != own_name
    )
    taken = {state.guest_cid for state in states if state is not None}
    cid = FIRST_DYNAMIC_CID
    while cid in taken:
        cid += 1
    return cid


def _name_in_use(folder: GuestFolder, name: str) -> NameInUse:
    state = read_state(folder)
    evidence = (f"its keeper is process {state.keeper_pid}",) if state else ()
    return NameInUse(
        f"a guest named {name!r} is running",
        stage="name",
        evidence=evidence,
        fix="choose another --name, or leave it out",
    )

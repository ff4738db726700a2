# SPDX-License-Identifier: Apache-2.0
"""Names of guests: a name is a lock, and a folder whose lock nobody holds is dead."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from innkeeper.errors import GuestError, HostError, NameInUse
from innkeeper.model.record import Record
from innkeeper.registry.layout import GuestFolder, Layout
from innkeeper.registry.records import read_state, settle
from innkeeper.system.files import file_error, remove_tree, write_volatile
from innkeeper.system.locks import FileLock, is_locked, lock_folder, try_lock, try_lock_folder

# Letters and digits that cannot be mistaken for each other.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"

# Dynamic CIDs start at 32; 0 to 2 are special and the rest are for static ones.
FIRST_DYNAMIC_CID = 32


def ephemeral_name() -> str:
    """A name for a guest that nobody named, such as "run-x7k2p9"."""
    import secrets  # 5 ms, for `inn run` alone

    return "run-" + "".join(secrets.choice(_ALPHABET) for _ in range(6))


class Claim:
    """A name that is ours: its folder, its lock and its CID, until :meth:`release`.

    :ivar keeps_state: leave the state file at the release.
    :ivar swept: names of the dead guests whose folders went on the way.
    """

    def __init__(
        self, folder: GuestFolder, lock: FileLock, guest_cid: int, machine: FileLock | None = None
    ) -> None:
        self.swept: tuple[str, ...] = ()
        self.folder = folder
        self.guest_cid = guest_cid
        self.keeps_state = False
        self._lock = lock
        self._machine = machine

    def in_place(self) -> bool:
        """False once somebody removed the folder; another guest may have its name then."""
        return self._lock.in_place()

    def write_state(self, record: Record) -> None:
        """Replace the state file as a whole.

        :raise HostError: it cannot be written, or the folder is not ours any more.
        """
        if not self.in_place():
            raise HostError(f"the folder {self.folder.path} was removed", stage="record")
        write_volatile(self.folder.state, msgspec.json.encode(record))

    def release(self) -> None:
        """Remove the folder, then give the name up. Idempotent."""
        if self.in_place():
            _empty(self.folder, keeps_state=self.keeps_state)
        self._lock.release()
        if self._machine is not None:
            self._machine.release()


def claim(layout: Layout, name: str, *, machine: bool = False, cid: int | None = None) -> Claim:
    """Take a name, make its folder and give it a CID that no other guest here has.

    Folders of dead guests are swept on the way, so that a host recovers from
    anything by the next start.

    :param machine: take the machine of this name too, so that nobody removes it.
    :param cid: the CID that it must have; None for any that is free.
    :raise NameInUse: a running guest has the name.
    :raise HostError: the folder cannot be made.
    """
    folder = layout.guest(name)
    try:
        with lock_folder(layout.runtime), contextlib.ExitStack() as stack:
            swept = _sweep(layout)
            folder.path.mkdir(mode=0o700, exist_ok=True)
            lock = try_lock(folder.lock)
            if lock is None:
                raise _name_in_use(folder, name)
            stack.callback(lock.release)
            stack.callback(remove_tree, folder.path)
            kept = stack.enter_context(_take_machine(layout, name)) if machine else None
            made = Claim(folder, lock, _free_cid(layout, name, wanted=cid), kept)
            made.swept = swept
            made.write_state(
                Record(
                    name=name,
                    state="starting",
                    changed_at=time.time(),
                    keeper_pid=os.getpid(),
                    guest_cid=made.guest_cid,
                )
            )
            stack.pop_all()
            return made
    except OSError as exc:
        raise file_error(exc, folder.path, doing="prepare", stage="folders") from exc


def _take_machine(layout: Layout, name: str) -> FileLock:
    path = layout.machine(name).path
    try:
        lock = try_lock_folder(path)
    except FileNotFoundError as exc:
        raise GuestError(
            f"the machine {name!r} was removed while it started", stage="name"
        ) from exc
    if lock is None:
        raise GuestError(
            f"the machine {name!r} is being removed, or its last guest still ends",
            stage="name",
            fix="try again in a moment",
        )
    return lock


def check_free(layout: Layout, name: str) -> None:
    """Refuse early a name that is taken; :func:`claim` decides for good.

    :raise NameInUse: a running guest has the name.
    """
    folder = layout.guest(name)
    if is_locked(folder.lock):
        raise _name_in_use(folder, name)


def running_guests(layout: Layout) -> dict[str, Record]:
    """The guests whose keepers live, by name; read from the disk alone."""
    found = {}
    for path in _guest_paths(layout):
        folder = GuestFolder(path)
        if is_locked(folder.lock) and (record := read_state(folder)) is not None:
            found[path.name] = record
    return found


def remove_dead(layout: Layout, name: str) -> bool:
    """Remove the folder of a guest whose keeper is gone; False where there was none."""
    folder = layout.guest(name)
    with lock_folder(layout.runtime):
        if folder.path.is_dir() and not is_locked(folder.lock):
            _empty(folder, keeps_state=not settle(layout, name))
            return True
    return False


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
        _empty(folder, keeps_state=not settle(layout, path.name))
        lock.release()
        swept.append(path.name)
    return tuple(swept)


def _empty(folder: GuestFolder, *, keeps_state: bool) -> None:
    """Remove a guest's folder, or all but the state where only that tells how the guest ended."""
    if not keeps_state:
        remove_tree(folder.path)
        return
    for path in folder.path.iterdir():
        if path.is_dir():
            remove_tree(path)
        elif path != folder.state:
            path.unlink(missing_ok=True)


def _guest_paths(layout: Layout) -> list[Path]:
    with contextlib.suppress(OSError):
        return [
            path
            for path in layout.runtime.iterdir()
            if path.is_dir()
            and not path.is_symlink()
            and not path.name.startswith(".")
            and _is_guests(path)
        ]
    return []


def _is_guests(path: Path) -> bool:
    """What else lies in the runtime folder is not ours to sweep."""
    folder = GuestFolder(path)
    return any(mark.exists() for mark in (folder.lock, folder.state, folder.keeper, folder.vsock))


def _free_cid(layout: Layout, own_name: str, *, wanted: int | None) -> int:
    states = (
        read_state(GuestFolder(path)) for path in _guest_paths(layout) if path.name != own_name
    )
    taken = {state.guest_cid: state.name for state in states if state is not None}
    if wanted is not None:
        if wanted in taken:
            raise NameInUse(
                f"the running guest {taken[wanted]!r} has the CID {wanted}",
                stage="name",
                fix=f"`inn stop {taken[wanted]}`, or give one of the two another CID",
            )
        return wanted
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

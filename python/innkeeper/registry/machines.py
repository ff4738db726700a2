# SPDX-License-Identifier: Apache-2.0
"""Machines that stay: their definitions and records on disk, read without asking anybody.

A machine is a folder with `machine.json`; it comes to be by a rename, so there
is never half of one. A file that cannot be read is named and left as it is.
"""

from __future__ import annotations

import contextlib
import os
import time

import msgspec

from innkeeper.errors import HostError, InnError, NameInUse, UnknownName, UsageError
from innkeeper.model.machine import Machine
from innkeeper.model.names import check_name
from innkeeper.model.record import Record, true_record
from innkeeper.registry.layout import GuestFolder, Layout, MachineFolder
from innkeeper.registry.names import check_free, running_guests
from innkeeper.registry.records import load_record, newest_record, write_record
from innkeeper.system.files import (
    make_folder,
    move_folder,
    read_whole,
    remove_folder,
    temporary_folder,
    write_atomic,
    write_new,
)
from innkeeper.system.locks import is_locked, try_lock_folder

__all__ = [
    "create_machine",
    "delete_machine",
    "guest_lives",
    "keeper_hidden",
    "known_names",
    "load_machine",
    "machine_names",
    "read_record",
    "write_record",
]


def create_machine(layout: Layout, machine: Machine) -> None:
    """Put a machine on disk, in state "created".

    :raise UsageError: there is one with this name.
    :raise NameInUse: a guest with this name runs.
    :raise HostError: the state folder cannot be written.
    """
    folder = layout.machine(machine.name)
    record = Record(name=machine.name, state="created", changed_at=time.time())
    check_free(layout, machine.name)
    make_folder(layout.machines)
    with temporary_folder(layout.machines) as made:
        half = MachineFolder(made)
        write_new(half.definition, msgspec.json.encode(machine))
        write_new(half.record, msgspec.json.encode(record))
        if not move_folder(made, folder.path):
            raise UsageError(
                f"there is a machine named {machine.name!r}",
                stage="create",
                fix=f"choose another name, or `inn rm {machine.name}`",
            )


def replace_machine(layout: Layout, machine: Machine) -> None:
    """Change a machine's definition as a whole; its next start follows it.

    :raise UnknownName: there is none with this name.
    :raise HostError: it cannot be written.
    """
    load_machine(layout, machine.name)
    write_atomic(layout.machine(machine.name).definition, msgspec.json.encode(machine))


def load_machine(layout: Layout, name: str) -> Machine:
    """The definition of a machine.

    :raise UnknownName: there is none with this name.
    :raise InnError: its file is damaged; it is named and left as it is.
    """
    check_name(name)
    folder = layout.machine(name)
    try:
        return msgspec.json.decode(read_whole(os.fspath(folder.definition)), type=Machine)
    except FileNotFoundError as exc:
        raise UnknownName("machine", name, machine_names(layout), stage="machine") from exc
    except OSError as exc:
        raise HostError(
            f"cannot read {folder.definition}: {exc.strerror}", stage="machine"
        ) from exc
    except (ValueError, RecursionError, InnError) as exc:  # ValueError: msgspec's, too
        raise InnError(
            f"the file {folder.definition} is damaged",
            stage="machine",
            evidence=(str(exc),),
            fix=f"mend it, or remove the machine with `inn rm -f {name}`",
        ) from exc


def machine_names(layout: Layout) -> tuple[str, ...]:
    """The names of all machines, sorted."""
    with contextlib.suppress(OSError):
        return tuple(
            sorted(
                path.name
                for path in layout.machines.iterdir()
                if path.is_dir() and not path.name.startswith(".")
            )
        )
    return ()


def read_record(layout: Layout, name: str) -> Record:
    """What is known of a machine's or guest's life, made true by its lock.

    :raise UnknownName: there is neither a machine nor a guest with this name.
    :raise InnError: its file is damaged.
    """
    folder = layout.machine(name)
    guest = layout.guest(name)
    # The folder's own lock: a keeper lives whose runtime folder was removed.
    lives = is_locked(guest.lock) or is_locked(folder.path)
    try:
        stays = folder.path.is_dir()
        record = newest_record(layout, name) if stays else load_record(guest.state)
    except FileNotFoundError as exc:
        with contextlib.suppress(OSError):
            made_at = folder.definition.stat().st_mtime
            return Record(name=name, state="created", changed_at=made_at, reason="it has no record")
        raise UnknownName("machine", name, known_names(layout), stage="machine") from exc
    return true_record(record, keeper_lives=lives)


def known_names(layout: Layout) -> tuple[str, ...]:
    """All machines and all running guests, sorted."""
    return tuple(sorted({*machine_names(layout), *running_guests(layout)}))


def delete_machine(layout: Layout, name: str) -> bool:
    """Remove a machine's folder; False when there was none.

    :raise NameInUse: somebody starts or removes it.
    :raise HostError: it cannot be removed.
    """
    check_name(name)
    folder = layout.machine(name)
    if not folder.path.is_dir():
        return False
    try:
        lock = try_lock_folder(folder.path)
    except FileNotFoundError:
        return False
    except OSError as exc:
        raise HostError(f"cannot remove {folder.path}: {exc.strerror}", stage="rm") from exc
    if lock is None:
        raise NameInUse(
            f"the machine {name!r} is being started or removed just now",
            stage="rm",
            fix=f"`inn rm -f {name}` stops it first",
        )
    with lock:
        remove_folder(folder.path)
    if folder.path.exists():
        raise HostError(f"cannot remove {folder.path}", stage="rm", fix="look at its permissions")
    return True


def guest_lives(layout: Layout, name: str) -> bool:
    """True while a keeper holds the name."""
    return is_locked(GuestFolder(layout.runtime / name).lock)


def keeper_hidden(layout: Layout, name: str) -> bool:
    """True while a machine's keeper lives that cannot be reached, its runtime folder being gone."""
    return not guest_lives(layout, name) and is_locked(layout.machine(name).path)

# SPDX-License-Identifier: Apache-2.0
"""`inn disk`: its verbs, and those that make, read and remove disks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from innkeeper.cli.groups import LazyGroup
from innkeeper.cli.output import FORMAT, columns, print_json
from innkeeper.errors import InnError, UsageError
from innkeeper.model.disk import FS_TYPES, FsType, StoredDisk
from innkeeper.model.sizes import format_size, parse_size
from innkeeper.registry.layout import Layout, host_layout
from innkeeper.system.interrupt import interruptible

VERBS = {
    "create": ("innkeeper.cli.disk:create", "Make a disk, blank or of a file."),
    "ls": ("innkeeper.cli.disk:ls", "List disks."),
    "inspect": ("innkeeper.cli.disk:inspect", "Show what is known of a disk, and who uses it."),
    "rm": ("innkeeper.cli.disk:rm", "Remove disks."),
    "resize": ("innkeeper.cli.disk_move:resize", "Make a disk larger or smaller."),
    "export": ("innkeeper.cli.disk_move:export", "Write a disk to an archive."),
    "import": ("innkeeper.cli.disk_move:import_verb", "Make a disk of an archive or a file."),
    "inspect-archive": (
        "innkeeper.cli.disk_move:inspect_archive_verb",
        "Show what an archive says of its disk.",
    ),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def disk() -> None:
    """Make and keep disks that outlive guests.

    \b
    inn disk create data --size 10G
    inn create web --disk data:/srv             the guest finds it at /srv
    inn run --disk data:/mnt:ro -- ls /mnt      or reads it in a run

    A disk is blank until a guest starts with it for the first time and makes a file
    system on it. One guest at a time writes to a disk; any number may read it.
    """


@click.command()
@click.option(
    "--size",
    default="auto",
    show_default=True,
    metavar="SIZE|auto",
    help="auto: nine tenths of the free space, at least 1G; what is not written takes none.",
)
@click.option(
    "--fs",
    "fstype",
    type=click.Choice(FS_TYPES),
    default="ext4",
    show_default=True,
    help="The file system that the first guest makes.",
)
@click.option(
    "--preallocate/--sparse",
    "allocate",
    default=None,
    help="Take all the space now, or as it is written. [default: now, for a size that is given]",
)
@click.option(
    "--from",
    "source",
    metavar="FILE",
    help="Copy a raw disk or a qcow2; a file system that is on it stays.",
)
@FORMAT
@click.argument("name")
def create(name: str, output_format: str, **values: Any) -> None:
    """Make the disk NAME.

    It is a file of mode 0600 below the state folder. With --from, a qcow2 stays one,
    and is refused where it rests on other files.
    """
    from innkeeper.disks.store import adopt_disk, make_disk

    layout = host_layout()
    size: str = values["size"]
    fstype: FsType = values["fstype"]
    allocate: bool | None = values["allocate"]
    source: str | None = values["source"]
    if source is not None and (size != "auto" or allocate is not None):
        raise UsageError(
            "--from takes the size of its file", fix="leave out --size, --preallocate and --sparse"
        )
    size_bytes = None if size == "auto" else parse_size(size)
    with interruptible():
        if source is not None:
            made = adopt_disk(layout.disks, name, Path(source), fstype=fstype)
        else:
            made = make_disk(
                layout.disks, name, size_bytes=size_bytes, fstype=fstype, allocate=allocate
            )
    if output_format == "json":
        print_json({"disk": _facts(layout, made)})
    else:
        click.echo(made.name)


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@FORMAT
def ls(quiet: bool, output_format: str) -> None:
    """List disks with their sizes, and who uses them.

    SIZE is what a guest sees, TAKEN what the disk takes on this host now. USED BY are
    the machines that name the disk, and guests that have it now, those with a "*".
    """
    from innkeeper.disks.store import disk_names

    layout = host_layout()
    rows = [_row(layout, name) for name in disk_names(layout.disks)]
    if output_format == "json":
        print_json({"disks": rows})
    elif quiet:
        click.echo("".join(f"{row['name']}\n" for row in rows), nl=False)
    else:
        head = ("NAME", "SIZE", "TAKEN", "FORMAT", "FS", "USED BY")
        click.echo("\n".join(columns([head, *(_cells(row) for row in rows)])))


@click.command()
@FORMAT
@click.argument("name")
def inspect(name: str, output_format: str) -> None:
    """Show what is known of a disk, and who uses it."""
    from innkeeper.disks.store import disk_path, find_disk

    layout = host_layout()
    found = find_disk(layout.disks, name)
    facts = _facts(layout, found)
    if output_format == "json":
        print_json({"disk": facts})
        return
    lines = [
        f"{name}: {_size(facts, 'size_bytes')}, of which {_size(facts, 'taken_bytes')} are taken",
        f"  file         {disk_path(layout.disks, name)}",
        f"  format       {found.file_format}",
        f"  file system  {found.fstype} where it was blank",
        f"  serial       {found.serial}",
        f"  machines     {', '.join(_names(facts, 'machines')) or 'none'}",
        f"  in use       {', '.join(_names(facts, 'guests')) or ('yes' if facts['in_use'] else 'no')}",
    ]
    click.echo("\n".join(lines))


@click.command()
@click.option("-f", "--force", is_flag=True, help="Also a disk that a machine names.")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...], force: bool) -> None:
    """Remove disks with all that is on them.

    Refused for a disk that a machine names, unless forced, and always for one in use.
    """
    from innkeeper.keeper.disks import remove_unused_disk

    layout = host_layout()
    for name in names:
        remove_unused_disk(layout, name, force=force)


def _row(layout: Layout, name: str) -> dict[str, object]:
    from innkeeper.disks.store import find_disk

    try:
        return {"state": "good", **_facts(layout, find_disk(layout.disks, name))}
    except InnError as error:
        return {"name": name, "state": "damaged", "reason": error.brief}


def _facts(layout: Layout, found: StoredDisk) -> dict[str, object]:
    from innkeeper.disks.store import disk_path, measure_disk
    from innkeeper.keeper.disks import disk_users

    stored: dict[str, object] = msgspec.to_builtins(found)
    stored.pop("version")
    return {
        **stored,
        **msgspec.to_builtins(measure_disk(layout.disks, found)),
        "file": str(disk_path(layout.disks, found.name)),
        **msgspec.to_builtins(disk_users(layout, found.name)),
    }


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    if row["state"] == "damaged":
        return (str(row["name"]), "damaged", "", "", "", "")
    now = _names(row, "guests")
    used = [name for name in _names(row, "machines") if name not in now]
    used += [f"{name}*" for name in now] or ["*"] * bool(row["in_use"])
    return (
        str(row["name"]),
        _size(row, "size_bytes"),
        _size(row, "taken_bytes"),
        str(row["file_format"]),
        str(row["fstype"]),
        ", ".join(used),
    )


def _size(row: dict[str, object], key: str) -> str:
    value = row[key]
    assert isinstance(value, int)
    return format_size(value)


def _names(row: dict[str, object], key: str) -> list[str]:
    names = row[key]
    assert isinstance(names, list | tuple)
    return list(names)

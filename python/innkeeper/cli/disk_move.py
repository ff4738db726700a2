# SPDX-License-Identifier: Apache-2.0
"""`inn disk export`, `import`, `inspect-archive` and `resize`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec

from innkeeper.cli.output import FORMAT, JSON_VERSION, Progress, print_json
from innkeeper.errors import UsageError
from innkeeper.model.disk import FS_TYPES, FsType
from innkeeper.model.sizes import format_size, parse_size
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible

if TYPE_CHECKING:
    from innkeeper.disks.inspecting import ArchiveInfo
    from innkeeper.disks.moving import Moving, Tell

PROGRESS = click.option(
    "--progress",
    type=click.Choice(["auto", "json", "none"]),
    default="auto",
    show_default=True,
    help="auto: a line on a terminal; json: an object a line on stderr, twice a second.",
)


@contextmanager
def telling(kind: str) -> Iterator[Tell | None]:
    """Who tells how far it is, as --progress says."""
    if kind == "none":
        yield None
        return
    progress = Progress()

    def line(moving: Moving) -> None:
        progress.step(_how_far(moving))

    def value(moving: Moving) -> None:
        event = {
            "version": JSON_VERSION,
            "event": "progress",
            "what": moving.what,
            "done_bytes": moving.done_bytes,
            "total_bytes": moving.total_bytes or None,
        }
        sys.stderr.write(msgspec.json.encode(event).decode() + "\n")
        sys.stderr.flush()

    try:
        yield value if kind == "json" else line
    finally:
        progress.clear()


def _how_far(moving: Moving) -> str:
    done = format_size(moving.done_bytes)
    if not moving.total_bytes:
        return f"{moving.what}: {done}"
    share = 100 * moving.done_bytes // moving.total_bytes
    return f"{moving.what}: {share} %, {done} of {format_size(moving.total_bytes)}"


@click.command()
@click.option(
    "--level",
    type=click.IntRange(1, 19),
    default=3,
    show_default=True,
    help="How hard zstd tries: 1 is fast, 19 is small.",
)
@click.option(
    "-f", "--force", is_flag=True, help="Also of a running guest, which is paused meanwhile."
)
@click.option("--replace", is_flag=True, help="FILE may exist.")
@PROGRESS
@FORMAT
@click.argument("name")
@click.argument("file")
def export(name: str, file: str, output_format: str, **values: Any) -> None:
    """Write the disk NAME to FILE, or to stdout for "-".

    FILE is a zstd archive that any `zstd -d` unpacks; `inn disk import` reads it, on
    this host or another. Holes take next to nothing in it. Beside it goes FILE.sha256,
    for `sha256sum -c`.

    FILE is there when it is whole, and never before; Ctrl-C leaves nothing.

    \b
    inn disk export data data.zst
    inn disk export data - | ssh there inn disk import data -
    """
    from innkeeper.keeper.disk_moves import export_disk

    if file == "-" and output_format == "json":
        raise UsageError("stdout cannot carry both the archive and JSON", fix="give a file")
    kind: str = values.pop("progress")
    target = None if file == "-" else Path(file)
    with interruptible(), telling(kind) as tell:
        done = export_disk(host_layout(), name, target, tell=tell, **values)
    if output_format == "json":
        print_json({"export": msgspec.to_builtins(done)})
    elif target is not None:
        sizes = f"{format_size(done.archive_bytes)} for {format_size(done.size_bytes)}"
        click.echo(f"{file}: {sizes}, SHA-256 {done.archive_sha256}")


@click.command("import")
@click.option(
    "--replace", is_flag=True, help="NAME may exist; it stays until the new one is whole."
)
@click.option(
    "-f",
    "--force",
    is_flag=True,
    help="With --replace, also of a running guest, which goes on with the old one until it ends.",
)
@click.option(
    "--limit",
    metavar="SIZE",
    help="Refuse larger disks. [default: as the archive declares; else the free space]",
)
@click.option("--raw", is_flag=True, help="Take it also where it does not look like a disk.")
@click.option(
    "--fs",
    "fstype",
    type=click.Choice(FS_TYPES),
    default="ext4",
    show_default=True,
    help="The file system that a guest makes on it, where it is blank.",
)
@PROGRESS
@FORMAT
@click.argument("name")
@click.argument("file")
def import_verb(name: str, file: str, output_format: str, **values: Any) -> None:
    """Make the disk NAME of FILE, or of stdin for "-".

    FILE is what `inn disk export` wrote, a disk's backup from ChromeOS (zstd, or the
    older zip and tar.gz), a raw disk, perhaps compressed with zstd, gzip or xz, or a
    qcow2, which stays one. A digest beside it (FILE.sha256, FILE.sha256.txt) is compared.

    What is damaged or incomplete is refused with its place, and an old disk is then as
    it was. Blocks of zeros take no space.

    \b
    inn disk import data data.zst
    inn disk import data data.zst --replace
    """
    from innkeeper.disks.importing import import_disk
    from innkeeper.disks.moving import Moving, told
    from innkeeper.disks.reading import Given

    limit: str | None = values["limit"]
    fstype: FsType = values["fstype"]
    if values["force"] and not values["replace"]:
        raise UsageError("--force is about a disk that is replaced", fix="add --replace")
    given = Given(
        None if file == "-" else Path(file),
        limit_bytes=None if limit is None else parse_size(limit),
        any_content=values["raw"],
    )
    moving = Moving("import")
    with interruptible(), telling(values["progress"]) as tell, told(moving, tell):
        disk, content = import_disk(
            host_layout().disks,
            name,
            given,
            replace=values["replace"],
            force=values["force"],
            fstype=fstype,
            moving=moving,
        )
    if output_format == "json":
        source = {
            "kind": content.kind,
            "size_bytes": content.size_bytes,
            "vm_type": content.vm_type or None,
            "verified": content.verified,
        }
        print_json({"disk": msgspec.to_builtins(disk), "source": source})
    else:
        click.echo(disk.name)


@click.command("inspect-archive")
@FORMAT
@click.argument("file", type=click.Path(path_type=Path))
def inspect_archive_verb(file: Path, output_format: str) -> None:
    """Show what an archive of a disk says of itself.

    Reads a few KiB of it, unpacks nothing and verifies nothing.
    """
    from innkeeper.disks.inspecting import inspect_archive

    info = inspect_archive(file)
    if output_format == "json":
        print_json({"archive": msgspec.to_builtins(info)})
    else:
        click.echo("\n".join(_lines(file, info)))


def _lines(file: Path, info: ArchiveInfo) -> list[str]:
    facts = {
        "kind": info.kind,
        "made by": info.made_by,
        "disk": "" if info.size_bytes is None else format_size(info.size_bytes),
        "data": "" if info.data_bytes is None else f"at most {format_size(info.data_bytes)}",
        "name": info.name,
        "file system": info.fstype,
        "space": "taken in advance" if info.fixed else "",
        "guest": info.vm_type,
        "content": info.content_digest,
    }
    rows = [f"  {name:<12} {value}" for name, value in facts.items() if value]
    return [f"{file}: {format_size(info.archive_bytes)}", *rows]


@click.command()
@FORMAT
@click.argument("name")
@click.argument("size")
def resize(name: str, size: str, output_format: str) -> None:
    """Give the disk NAME another SIZE, and its file system with it.

    A disk that no guest has is worked on by a guest of its own, for some seconds; this
    host never interprets what guests wrote. A running guest's disk grows under it; of
    the file systems, btrfs also shrinks so.

    What does not fit is refused, with the least size that would do. A resize that was
    killed leaves a disk that works; the same command again finishes it.

    \b
    inn disk resize data 20G
    """
    from innkeeper.keeper.disk_resize import resize_disk

    with interruptible():
        done = resize_disk(host_layout(), name, parse_size(size), report=Progress().line)
    if output_format == "json":
        print_json({"resize": msgspec.to_builtins(done)})
    else:
        before = format_size(done.before_bytes)
        click.echo(f"{name}: {format_size(done.size_bytes)}, before {before}")

# SPDX-License-Identifier: Apache-2.0
"""`inn image`: its verbs, and those that read what is stored."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from innkeeper.cli.groups import LazyGroup
from innkeeper.cli.output import FORMAT, print_json, render_error
from innkeeper.errors import EXIT_FAILURE, InnError
from innkeeper.model.bundle import Bundle
from innkeeper.model.sizes import format_size
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible

VERBS = {
    "build": ("innkeeper.cli.image_make:build", "Build an image from Debian's packages."),
    "import": (
        "innkeeper.cli.image_make:import_verb",
        "Make an image of a folder, a tar or a disk.",
    ),
    "install": ("innkeeper.cli.image_move:install", "Fetch an image from a folder or an address."),
    "export": ("innkeeper.cli.image_move:export", "Make a folder to install an image from."),
    "ls": ("innkeeper.cli.image:ls", "List images."),
    "inspect": ("innkeeper.cli.image:inspect", "Show what an image holds."),
    "verify": ("innkeeper.cli.image:verify", "Read images and compare their digests."),
    "rm": ("innkeeper.cli.image:rm", "Remove images."),
    "gc": ("innkeeper.cli.image:gc", "Remove half builds and what can be made again."),
}


@click.group(cls=LazyGroup, verbs=VERBS)
def image() -> None:
    """Make and keep images: a kernel and a read-only root, shared by all guests.

    \b
    inn image build debian                          from packages, in a minute
    inn run --image debian -- systemctl is-system-running
    inn image import mine --root rootfs.tar         from what there is already

    The image `tiny` is always there; it is made when it is first used.
    """


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="Only names.")
@FORMAT
def ls(quiet: bool, output_format: str) -> None:
    """List stored images with their roots, kernels and sizes."""
    from innkeeper.images.bundles import bundle_names

    images = host_layout().images
    rows = [_row(images, name) for name in bundle_names(images)]
    if output_format == "json":
        print_json({"images": rows})
    elif quiet:
        click.echo("".join(f"{row['name']}\n" for row in rows), nl=False)
    else:
        head: tuple[str, ...] = ("NAME", "ROOT", "INIT", "KERNELS", "SIZE", "DIGEST")
        lines = [head, *(_cells(row) for row in rows)]
        widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
        for line in lines:
            cells = (f"{text:<{width}}" for text, width in zip(line, widths, strict=True))
            click.echo("  ".join(cells).rstrip())


def _row(images: Path, name: str) -> dict[str, object]:
    from innkeeper.images.bundles import find_bundle

    try:
        bundle, _ = find_bundle(images, name)
    except InnError as error:
        return {"name": name, "state": "damaged", "reason": error.brief}
    return {
        "name": name,
        "state": "good",
        "digest": bundle.digest,
        "arch": bundle.arch,
        "root_type": bundle.root_type if bundle.root else None,
        "init": bundle.init,
        "kernels": [
            {"flavour": kernel.flavour, "release": kernel.release} for kernel in bundle.kernels
        ],
        "size_bytes": sum(file.size_bytes for file in bundle.files),
    }


def _cells(row: dict[str, object]) -> tuple[str, ...]:
    if row["state"] == "damaged":
        return (str(row["name"]), "damaged", "", "", "", "")
    kernels, size = row["kernels"], row["size_bytes"]
    assert isinstance(kernels, list)
    assert isinstance(size, int)
    return (
        str(row["name"]),
        str(row["root_type"] or "none"),
        str(row["init"]),
        ", ".join(kernel["flavour"] for kernel in kernels),
        format_size(size),
        str(row["digest"])[:12],
    )


@click.command()
@FORMAT
@click.argument("name")
def inspect(name: str, output_format: str) -> None:
    """Show what an image holds, what it was made from, and which machines use it."""
    from innkeeper.images.bundles import find_bundle
    from innkeeper.keeper.images import image_users

    layout = host_layout()
    bundle, folder = find_bundle(layout.images, name)
    users = image_users(layout, name)
    if output_format == "json":
        value = msgspec.to_builtins(bundle)
        print_json({"image": value, "folder": str(folder), "machines": list(users)})
        return
    lines = [
        f"{bundle.name}: {bundle.arch}, digest {bundle.digest}",
        f"  folder       {folder}",
        f"  root         {bundle.root or 'none'}",
        f"  init         {bundle.init}",
        *(f"  tools        {bundle.tools} at {bundle.tools_at}" for _ in range(bool(bundle.tools))),
        *(f"  kernel       {kernel.flavour} {kernel.release}" for kernel in bundle.kernels),
        *(f"  file         {file.name}  {format_size(file.size_bytes)}" for file in bundle.files),
        *(f"  {key:<12} {_plain(value)}" for key, value in bundle.recipe.items() if value),
        f"  machines     {', '.join(users) or 'none'}",
    ]
    click.echo("\n".join(lines))


def _plain(value: object) -> str:
    if isinstance(value, list | tuple | dict):
        return ", ".join(str(part) for part in value)
    return str(value)


@click.command()
@FORMAT
@click.argument("names", nargs=-1, metavar="[NAME]...")
def verify(names: tuple[str, ...], output_format: str) -> int:
    """Read every file of images and compare it with its digest; without names, of all images.

    Exit code 125 when one is damaged; its file is named.
    """
    from innkeeper.images.bundles import bundle_names, verify_bundle

    images = host_layout().images
    rows: list[dict[str, object]] = []
    with interruptible():
        for name in names or bundle_names(images):
            errors = verify_bundle(images, name)
            rows.append(_verdict(images, name, errors))
            if output_format == "text":
                click.echo(f"{name}: {'damaged' if errors else 'good'}")
                for error in errors:
                    render_error(error, as_json=False)
    if output_format == "json":
        print_json({"images": rows})
    return EXIT_FAILURE if any(row["state"] == "damaged" for row in rows) else 0


def _verdict(images: Path, name: str, errors: list[InnError]) -> dict[str, object]:
    return {
        "name": name,
        "folder": str(images / name),
        "state": "damaged" if errors else "good",
        "errors": [error.as_dict() for error in errors],
    }


@click.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def rm(names: tuple[str, ...]) -> None:
    """Remove images; refused while a machine or a running guest uses one."""
    from innkeeper.keeper.images import remove_image

    layout = host_layout()
    for name in names:
        remove_image(layout, name)


@click.command()
@FORMAT
def gc(output_format: str) -> None:
    """Remove half builds, unfinished downloads and cached files that can be made again.

    Stored images stay, and so does what was used within 30 days.
    """
    from innkeeper.keeper.images import collect_garbage

    removed = collect_garbage(host_layout())
    if output_format == "json":
        print_json({"removed": msgspec.to_builtins(removed)})
        return
    for one in removed:
        click.echo(f"{one.path}  {format_size(one.size_bytes)}")


def show_stored(bundle: Bundle, *, new: bool, output_format: str) -> None:
    """Tell of an image that was made or fetched."""
    if output_format == "json":
        print_json({"image": msgspec.to_builtins(bundle), "new": new})
    else:
        there = "" if new else " (unchanged)"
        click.echo(f"{bundle.name} {bundle.digest}{there}")

# SPDX-License-Identifier: Apache-2.0
"""`inn image build` and `inn image import`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from innkeeper.cli.image import show_stored
from innkeeper.cli.lifecycle import TIMINGS
from innkeeper.cli.output import FORMAT, Progress, render_timings
from innkeeper.errors import UsageError
from innkeeper.images.phases import Phases
from innkeeper.model.bundle import TOOLS_AT
from innkeeper.model.recipe import Recipe, recipe_from_table
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible

FORCE = click.option("--force", is_flag=True, help="Replace another image of this name.")


def show_phases(phases: Phases, *, timings: bool) -> None:
    """The durations on stderr, where they were asked for."""
    if timings and phases.durations_s:
        rows = [(name, seconds, 0) for name, seconds in phases.durations_s.items()]
        rows.append(("total", sum(phases.durations_s.values()), 0))
        click.echo(render_timings(rows), err=True)


@click.command()
@click.option("--suite", metavar="SUITE", help="bookworm or trixie. [default: bookworm]")
@click.option("--package", "packages", multiple=True, metavar="P", help="A package to add.")
@click.option("--name", metavar="NAME", help="Name of the image. [default: debian]")
@click.option(
    "--init", metavar="INIT", help="systemd, or agent for a small Debian. [default: systemd]"
)
@click.option(
    "--root-format",
    "root_format",
    metavar="TYPE",
    help="Of the root: erofs, squashfs or ext4. [default: erofs]",
)
@click.option(
    "--kernel-flavour",
    "kernels",
    multiple=True,
    metavar="FLAVOUR",
    help="cloud or amd64, also both; the first one is the default. [default: cloud]",
)
@click.option("--mirror", metavar="ADDRESS", help="Debian mirror. [default: mmdebstrap's]")
@click.option(
    "--file",
    "recipe_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A recipe; options go before what it says. `inn schema recipe` explains it.",
)
@FORCE
@TIMINGS
@FORMAT
@click.argument("distribution", default="debian")
def build(
    name: str | None,
    recipe_file: Path | None,
    force: bool,
    timings: bool,
    output_format: str,
    **options: Any,
) -> None:
    """Build an image from Debian's packages, as root or as a user with ids in /etc/subuid.

    The same recipe gives the same bytes as long as the mirror has the same packages;
    then nothing is replaced. A build that is interrupted leaves nothing.

    \b
    inn image build debian --suite trixie --package python3 --package openssh-server
    inn image build debian --file recipe.toml --name builder
    inn image build debian --init agent --name small
    """
    recipe = _recipe(recipe_file, options)
    from innkeeper.images.build import build_debian
    from innkeeper.images.bundles import check_image_name

    name = check_image_name(name or recipe.distribution)
    progress = Progress()
    phases = Phases(progress.line, progress.step)
    with interruptible():
        try:
            bundle, new = build_debian(
                host_layout().images, name, recipe, phases=phases, force=force
            )
        finally:
            progress.clear()
    show_phases(phases, timings=timings)
    show_stored(bundle, new=new, output_format=output_format)


def _recipe(recipe_file: Path | None, options: dict[str, Any]) -> Recipe:

    from innkeeper.model.toml import read_table

    table: dict[str, Any] = {}
    source = "the command line"
    if recipe_file is not None:
        source = str(recipe_file)
        table = read_table(_read(recipe_file), source=source)
    options["format"] = options.pop("root_format")
    for key, value in options.items():
        if value and key == "packages":
            table[key] = [*table.get(key, ()), *value]
        elif value and not (key == "distribution" and key in table):
            table[key] = value
    return recipe_from_table(table, source=source)


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"cannot read {path}: {exc}", stage="recipe") from exc


@click.command("import")
@click.option(
    "--root",
    required=True,
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="A folder, a tar, a qcow2, a raw disk or file system, or a folder with vm_kernel, "
    "vm_rootfs.img and vm_tools.img.",
)
@click.option(
    "--kernel",
    default="",
    metavar="FILE",
    help="A kernel file, or `debian` for that of the image tiny. [default: the root's own]",
)
@click.option(
    "--modules",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The kernel's modules. [default: sought beside it]",
)
@click.option(
    "--tools",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A second read-only file system, as vm_tools.img is one.",
)
@click.option(
    "--tools-at",
    default=TOOLS_AT,
    show_default=True,
    metavar="PATH",
    help="Where a guest finds the tools.",
)
@click.option(
    "--init",
    default="",
    metavar="PROGRAM",
    help="PID 1: a program of the root, or agent. [default: the root's own, else agent]",
)
@click.option(
    "--root-format",
    default="erofs",
    show_default=True,
    type=click.Choice(["erofs", "squashfs", "ext4"]),
    help="What is made of a folder or a tar.",
)
@FORCE
@TIMINGS
@FORMAT
@click.argument("name")
def import_verb(name: str, timings: bool, output_format: str, force: bool, **options: Any) -> None:
    """Make the image NAME of what is there already; that stays as it is.

    The kernel is the newest of each flavour in the root's /boot, with its modules,
    unless one is given. Of a disk with partitions, the largest one with a file
    system is taken.

    \b
    inn image import mine --root rootfs.tar --kernel debian
    inn image import cloud --root debian-12-generic-amd64.qcow2
    """
    from innkeeper.images.bundles import check_image_name
    from innkeeper.images.importing import Import, import_image

    check_image_name(name)
    layout = host_layout()
    wanted = Import(packages=layout.cache / "packages", **options)
    progress = Progress()
    phases = Phases(progress.line, progress.step)
    with interruptible():
        try:
            bundle, new = import_image(layout.images, name, wanted, phases=phases, force=force)
        finally:
            progress.clear()
    show_phases(phases, timings=timings)
    show_stored(bundle, new=new, output_format=output_format)

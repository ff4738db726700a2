# SPDX-License-Identifier: Apache-2.0
"""`inn image install` and `inn image export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from innkeeper.cli.image import show_stored
from innkeeper.cli.image_make import show_phases
from innkeeper.cli.lifecycle import TIMINGS
from innkeeper.cli.output import FORMAT, Progress
from innkeeper.images.phases import Phases
from innkeeper.registry.layout import host_layout
from innkeeper.system.interrupt import interruptible


@click.command()
@click.option("--name", metavar="NAME", help="Name of the image. [default: as its source says]")
@click.option(
    "--digest", metavar="SHA256", help="Refuse another than this; the beginning is enough."
)
@click.option(
    "--force", is_flag=True, help="Ask the source again, and replace another image of this name."
)
@TIMINGS
@FORMAT
@click.argument("source")
def install(source: str, timings: bool, output_format: str, **options: Any) -> None:
    """Fetch an image from SOURCE: a folder, or an http or https address of one.

    A transfer that was interrupted goes on where it ended. Every file is compared
    with its digest before it is used. An image that is here already is not fetched
    again, and its source is not even asked.

    \b
    inn image export debian /srv/images/debian       makes such a folder
    inn image install http://images.lan/debian
    """
    from innkeeper.images.installing import install_bundle

    progress = Progress()
    phases = Phases(progress.line, progress.step)
    with interruptible():
        try:
            bundle, new = install_bundle(host_layout().images, source, phases=phases, **options)
        finally:
            progress.clear()
    show_phases(phases, timings=timings)
    show_stored(bundle, new=new, output_format=output_format)


@click.command()
@FORMAT
@click.argument("name")
@click.argument("folder", type=click.Path(path_type=Path))
def export(name: str, folder: Path, output_format: str) -> None:
    """Write the image NAME to FOLDER, from which `inn image install` can fetch it.

    Any web server can serve the folder; one that knows ranges lets an interrupted
    transfer go on.
    """
    from innkeeper.images.installing import export_bundle

    with interruptible():
        bundle = export_bundle(host_layout().images, name, folder)
    show_stored(bundle, new=True, output_format=output_format)

# SPDX-License-Identifier: Apache-2.0
"""A Debian image for the tests: built once on a host, then fetched from the cache."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
from guests import INN

import innkeeper.images
from innkeeper.images.debian import recipe_digest
from innkeeper.model.recipe import Recipe, recipe_from_table
from innkeeper.registry.layout import plan_layout

ARGO = Path(__file__).resolve().parents[2] / "recipes/argo"

# A mirror that is slow, on a host that is busy.
BUILD_LIMIT_S = 600


def run_image(*arguments: str) -> str:
    """`inn image` with these arguments; its stdout."""
    done = subprocess.run(
        [*INN, "image", *arguments], capture_output=True, timeout=BUILD_LIMIT_S, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"inn image {' '.join(arguments)}: {done.stderr.decode()}")
    return done.stdout.decode()


def cached_export(recipe: Recipe) -> Path:
    """Where an image of this recipe is kept from one run of the tests to the next."""
    cache = plan_layout(os.environ, os.geteuid()).cache / "test-images"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    # What another state of the builder made need not be what this one makes.
    return cache / f"debian-{recipe_digest(recipe)[:16]}-{_builder_digest()[:16]}"


def _builder_digest() -> str:
    digest = hashlib.sha256()
    for path in sorted(Path(innkeeper.images.__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _remove_older(folder: Path) -> None:
    for path in folder.parent.glob(folder.name.rpartition("-")[0] + "*"):
        shutil.rmtree(path, ignore_errors=True)


def provide_debian(name: str, recipe: Recipe, *options: str) -> str:
    """Put an image of a recipe into the run's state folder.

    :param options: of `inn image build` for this recipe.
    """
    folder = cached_export(recipe)
    if not folder.is_dir():
        _remove_older(folder)
        run_image("build", "debian", *options, "--name", name)
        run_image("export", name, str(folder))
    else:
        run_image("install", str(folder), "--name", name)
    return name


def provide_argo() -> str:
    """Put the image of recipes/argo into the state folder."""
    file = ARGO / "image.toml"
    recipe = recipe_from_table(tomllib.loads(file.read_text()), source=str(file))
    return provide_debian("argo", recipe, "--file", str(file))

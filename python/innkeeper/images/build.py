# SPDX-License-Identifier: Apache-2.0
"""Building a Debian image: a plan applied in a folder that becomes the bundle, or is gone."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from innkeeper.errors import HostError, ImageError
from innkeeper.images.build_failures import explain_failure
from innkeeper.images.bundles import finish_bundle, place_bundle
from innkeeper.images.debian import DebianPlan, mmdebstrap_argv, plan_debian
from innkeeper.images.making import building
from innkeeper.images.mapped import as_root, check_mapped, remove_owned, root_environment
from innkeeper.images.phases import Phases
from innkeeper.images.roots import fill_up, make_root
from innkeeper.images.space import check_space
from innkeeper.images.stored_kernels import find_kernels, store_kernels
from innkeeper.model.bundle import Bundle
from innkeeper.model.recipe import Recipe
from innkeeper.model.sizes import MIB
from innkeeper.system.files import naming_errors, write_new
from innkeeper.system.process import find_program
from innkeeper.system.watched import Failed, run_watched

# What a small image takes while it is made: packages, the tree, and the root made of it.
_SPACE_BYTES = 900 * MIB
# The modules of the kernel for any hardware, twice.
_SPACE_FOR_AMD64_BYTES = 700 * MIB

_TREE = "tree"


def build_debian(
    images: Path, name: str, recipe: Recipe, *, phases: Phases, force: bool
) -> tuple[Bundle, bool]:
    """Make a bundle of a recipe and put it in place.

    :param images: the folder of bundles, `layout.images`.
    :param force: replace another image of this name.
    :return: the bundle; False when the very same one was there already.
    :raise UsageError: a package does not exist, or another image has this name.
    :raise HostError: a program, the mirror, space or the right to build is missing.
    :raise ImageError: the image could not be made.
    """
    if find_program("mmdebstrap") is None:
        raise HostError(
            "mmdebstrap is not installed", stage="build", fix="apt-get install mmdebstrap"
        )
    check_mapped()
    plan = plan_debian(recipe)
    with building(images) as folder:
        _check_space(folder, recipe)
        tree = folder / _TREE
        with phases.phase("packages", f"building {name}: Debian {recipe.suite}, packages"):
            _run_mmdebstrap(recipe, plan, folder, phases)
        with phases.phase("kernels", f"building {name}: kernels"):
            kernels = store_kernels(
                sorted(find_kernels(tree), key=lambda kernel: _rank(recipe, kernel.flavour)),
                folder,
                root_type=recipe.format,
            )
        with phases.phase("root", f"building {name}: {recipe.format} root"):
            write_new(folder / "packages.txt", _package_list(tree), 0o644)
            apply_changes(tree, plan)
            root = f"root.{recipe.format}"
            make_root(
                recipe.format,
                tree,
                folder / root,
                fs_uuid=plan.fs_uuid,
                epoch=recipe.source_epoch,
            )
        with phases.phase("store", f"building {name}: digests"):
            remove_owned(tree)
            fill_up(folder / root)
            bundle = finish_bundle(
                folder,
                Bundle(
                    name=name,
                    digest="",
                    kernels=kernels,
                    root=root,
                    root_type=recipe.format,
                    init=plan.init,
                    files=(),
                    recipe=msgspec.to_builtins(recipe),
                ),
                [path.name for path in folder.iterdir()],
            )
            return bundle, place_bundle(images, folder, bundle, force=force)


def _rank(recipe: Recipe, flavour: str) -> int:
    return next((at for at, name in enumerate(recipe.kernels) if name == flavour), 99)


def _check_space(folder: Path, recipe: Recipe) -> None:
    need = _SPACE_BYTES + _SPACE_FOR_AMD64_BYTES * ("amd64" in recipe.kernels)
    check_space(folder, need, what="building an image", stage="build")


def _run_mmdebstrap(recipe: Recipe, plan: DebianPlan, folder: Path, phases: Phases) -> None:
    temporary = folder / "tmp"
    hook = folder / "kernels.sh"
    write_new(hook, plan.hook.encode(), 0o755)
    temporary.mkdir()

    def tell(line: str) -> None:
        if line.startswith("I: "):
            phases.detail(line.removeprefix("I: "))

    try:
        run_watched(
            as_root(mmdebstrap_argv(recipe, plan, hook=hook, tree=folder / _TREE)),
            stage="packages",
            on_line=tell,
            env={**root_environment(), **plan.env, "TMPDIR": str(temporary)},
        )
    except Failed as exc:
        raise explain_failure(exc.lines, recipe) from exc
    finally:
        remove_owned(temporary)
        hook.unlink(missing_ok=True)


def apply_changes(tree: Path, plan: DebianPlan) -> None:
    """Take out what a build leaves of the host or the moment, and write the plan's files.

    :raise ImageError: a path of the plan leads out of the tree.
    """
    epoch = int(plan.env["SOURCE_DATE_EPOCH"])
    with naming_errors(tree, doing="write", stage="root"):
        for pattern in plan.dropped:
            for path in list(tree.glob(pattern)):
                if path.is_dir() and not path.is_symlink():
                    remove_owned(path)
                else:
                    path.unlink()
        for name, text in plan.files.items():
            path = _inside(tree, name)
            mode = 0o755 if text.startswith("#!") else 0o644
            write_new(path, text.encode(), mode)
            os.utime(path, (epoch, epoch))
        for name, target in plan.links.items():
            _inside(tree, name).symlink_to(target)


def _inside(tree: Path, name: str) -> Path:
    """A path for a new file; what has its name is removed, and folders are made."""
    path = tree / name
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if not path.parent.resolve().is_relative_to(tree.resolve()):
        raise ImageError(f"/{name} leads out of the image", stage="root")
    if path.is_dir() and not path.is_symlink():
        raise ImageError(f"/{name} is a folder in the image", stage="root")
    path.unlink(missing_ok=True)
    return path


def _package_list(tree: Path) -> bytes:
    """Names and versions of the packages, a line each, from dpkg's status file."""
    lines = []
    with naming_errors(tree, doing="read", stage="root"):
        text = (tree / "var/lib/dpkg/status").read_text("utf-8", "replace")
    for paragraph in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line[:40])
        if "Package" in fields and "Version" in fields:
            lines.append(f"{fields['Package']} {fields['Version']}\n")
    return "".join(sorted(lines)).encode()

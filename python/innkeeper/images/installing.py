# SPDX-License-Identifier: Apache-2.0
"""Fetching a bundle from a folder or an address, and making a folder to fetch it from.

What is fetched grows in `.parts/`, named by the digest it is to have: a transfer that
was interrupted goes on, from whatever source, and nothing is used before its digest
is right.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.parse
from collections.abc import Callable
from io import FileIO
from pathlib import Path

import msgspec

from innkeeper.errors import HostError, ImageError, NameInUse, UsageError
from innkeeper.images.bundles import (
    bundle_names,
    check_arch,
    check_image_name,
    find_bundle,
    finish_bundle,
    parse_bundle,
    place_bundle,
    read_bundle,
    verify_file,
)
from innkeeper.images.making import EXPORT_PREFIX, PARTS, building, sweep_builds
from innkeeper.images.phases import Phases
from innkeeper.images.space import check_space
from innkeeper.model.bundle import BUNDLE_FILE, Bundle, StoredFile
from innkeeper.model.sizes import MIB, format_size
from innkeeper.system.download import fetch_into, fetch_small, is_address
from innkeeper.system.files import (
    make_folder,
    move_folder,
    naming_errors,
    sync_file,
    write_new,
)
from innkeeper.system.locks import try_lock

# The key of a bundle's recipe that says where it was fetched from.
INSTALLED_FROM = "installed_from"

_MANIFEST_MAXIMUM_BYTES = 4 << 20
_SLACK_BYTES = 16 * MIB


def install_bundle(
    images: Path,
    source: str,
    *,
    name: str | None,
    digest: str | None,
    force: bool,
    phases: Phases,
) -> tuple[Bundle, bool]:
    """Fetch a bundle and put it in place.

    Nothing is asked of a source from which the image is here already.

    :param source: a folder, or an http(s) address, of the bundle or of its manifest.
    :param name: for the image; None takes the manifest's.
    :param digest: what the bundle's digest has to be, or its beginning.
    :param force: ask the source again, and replace another image of this name.
    :return: the bundle; False when it was there already.
    :raise ImageError: what came is not what the manifest says; the file is named.
    :raise HostError: the source cannot be reached; what came is kept for the next try.
    """
    source = _settle(source)
    # Also where nothing will be made: what is asked for may be there already.
    sweep_builds(images)
    if not force:
        there = _installed(images, source, name)
        if there is not None:
            _check_digest(there, digest, source)
            return there, False
    with phases.phase("manifest", f"installing from {source}"):
        bundle = _manifest(source)
        check_arch(bundle, stage="install")
        name = check_image_name(name or bundle.name)
        _check_digest(bundle, digest, source)
    if name in bundle_names(images):
        there = _same_there(images / name, bundle, force=force)
        if there is not None:
            return there, False
        if not force:
            raise UsageError(
                f"there is another image named {name!r}",
                stage="install",
                fix="add --force to replace it, or give this one another --name",
            )
    parts = images / PARTS
    make_folder(images)
    make_folder(parts)
    _check_space(parts, bundle)
    with building(images) as folder:
        for file in bundle.files:
            with phases.phase("transfer", f"{file.name}: {format_size(file.size_bytes)}"):
                _fetch(source, file, parts, folder, phases.detail)
        with phases.phase("store", f"storing {name}"):
            recipe = {**bundle.recipe, INSTALLED_FROM: source}
            made = msgspec.structs.replace(bundle, name=name, recipe=recipe)
            made = finish_bundle(folder, made, [file.name for file in bundle.files])
            return made, place_bundle(images, folder, made, force=force)


def _settle(source: str) -> str:
    """A source by one spelling: the folder, absolute, or the address with a slash at its end."""
    source = source.removesuffix(BUNDLE_FILE) if source.endswith("/" + BUNDLE_FILE) else source
    if is_address(source):
        return source.rstrip("/") + "/"
    if "://" in source:
        raise UsageError(
            f"{source} is neither a folder nor an http address", stage="install", fix="give one"
        )
    return str(Path(source).absolute())


def _installed(images: Path, source: str, name: str | None) -> Bundle | None:
    for candidate in bundle_names(images):
        try:
            bundle, _ = find_bundle(images, candidate)
        except ImageError:
            # A damaged one has to be fetched again; `force` says so.
            continue
        if bundle.recipe.get(INSTALLED_FROM) == source and name in (None, candidate):
            return bundle
    return None


def _same_there(folder: Path, bundle: Bundle, *, force: bool) -> Bundle | None:
    """The stored bundle where it is this one and whole; a damaged one may be replaced by force.

    :raise ImageError: it is damaged, and not to be replaced.
    """
    try:
        now = read_bundle(folder)
        if now.digest != bundle.digest:
            return None
        for file in now.files:
            verify_file(folder, file)
    except ImageError:
        if not force:
            raise
        return None
    return now


def _manifest(source: str) -> Bundle:
    if is_address(source):
        text = fetch_small(source + BUNDLE_FILE, limit_bytes=_MANIFEST_MAXIMUM_BYTES)
        return parse_bundle(text, source + BUNDLE_FILE)
    if not Path(source).is_dir():
        raise UsageError(
            f"there is no folder {source}",
            stage="install",
            fix="give a folder that `inn image export` made, or an http address",
        )
    return read_bundle(Path(source))


def _check_digest(bundle: Bundle, digest: str | None, source: str) -> None:
    if digest and not bundle.digest.startswith(digest.lower()):
        raise ImageError(
            f"{source} does not have the digest that was asked for",
            stage="install",
            evidence=(f"its digest is {bundle.digest}",),
            fix="ask where you have the digest from",
        )


def _check_space(parts: Path, bundle: Bundle) -> None:
    have = sum(
        path.stat().st_size
        for file in bundle.files
        if (path := parts / f"{file.sha256}.part").is_file()
    )
    need = sum(file.size_bytes for file in bundle.files) - have + _SLACK_BYTES
    check_space(parts, need, what="the image", stage="install")


def _fetch(
    source: str, file: StoredFile, parts: Path, folder: Path, detail: Callable[[str], None]
) -> None:
    part = parts / f"{file.sha256}.part"
    with naming_errors(part, doing="write", stage="download"):
        lock = try_lock(part)
    if lock is None:
        raise NameInUse(
            f"the file {file.name} is being fetched by another `inn image install`",
            stage="download",
            fix="wait for it, then try again",
        )

    def progress(have: int) -> None:
        share = 100 * have // max(1, file.size_bytes)
        detail(f"{file.name}: {format_size(have)} of {format_size(file.size_bytes)} ({share} %)")

    with lock:
        with naming_errors(part, doing="write", stage="download"), part.open("r+b", 0) as target:
            goes_on = target.seek(0, os.SEEK_END) > 0
            came = _transfer(source, file, target, progress)
            if came != file.sha256 and goes_on:
                # What was there may be of another source, or was damaged meanwhile.
                target.truncate(0)
                came = _transfer(source, file, target, progress)
        if came != file.sha256:
            part.unlink()
            raise ImageError(
                f"the file {file.name} from {source} is damaged",
                stage="download",
                evidence=(
                    f"its SHA-256 is {came}",
                    f"the manifest says {file.sha256}",
                ),
                fix="the source has to be mended; nothing of it is kept",
            )
        with naming_errors(part, doing="rename", stage="download"):
            part.rename(folder / file.name)


def _transfer(
    source: str, file: StoredFile, target: FileIO, progress: Callable[[int], None]
) -> str:
    """Complete a file of which a part may be there, on the disk; the SHA-256 of all of it."""
    if is_address(source):
        address = source + urllib.parse.quote(file.name)
        fetch_into(address, target, size_bytes=file.size_bytes, progress=progress)
    else:
        _copy_into(Path(source) / file.name, target, file.size_bytes)
    os.fsync(target.fileno())
    target.seek(0)
    return hashlib.file_digest(target, "sha256").hexdigest()


def _copy_into(path: Path, target: FileIO, size_bytes: int) -> None:
    with naming_errors(path, doing="read", stage="install"), path.open("rb") as file:
        target.seek(0)
        target.truncate()
        at = 0
        while at < size_bytes:
            moved = os.sendfile(target.fileno(), file.fileno(), at, size_bytes - at)
            if moved == 0:
                raise HostError(f"{path} is shorter than its manifest says", stage="install")
            at += moved


def export_bundle(images: Path, name: str, target: Path) -> Bundle:
    """Make a folder from which a bundle can be installed; serve it by any web server.

    :param target: must not exist, or be empty.
    :raise UnknownName: there is no such image.
    :raise ImageError: a file of it is damaged; it is named.
    :raise UsageError: there is something at `target`.
    """
    bundle, folder = find_bundle(images, name)
    target = target.absolute()
    make_folder(target.parent, 0o755)
    recipe = {key: value for key, value in bundle.recipe.items() if key != INSTALLED_FROM}
    bundle = msgspec.structs.replace(bundle, recipe=recipe)
    with building(target.parent, EXPORT_PREFIX) as half:
        for file in bundle.files:
            with naming_errors(half / file.name, doing="write", stage="export"):
                shutil.copyfile(folder / file.name, half / file.name)
                sync_file(half / file.name)
            verify_file(half, file)
        text = msgspec.json.format(msgspec.json.encode(bundle), indent=2)
        write_new(half / BUNDLE_FILE, text + b"\n", 0o644)
        with naming_errors(half, doing="change the mode of"):
            half.chmod(0o755)
        if not move_folder(half, target):
            raise UsageError(
                f"{target} is there already, and not empty", stage="export", fix="name another"
            )
    return bundle

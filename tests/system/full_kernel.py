# SPDX-License-Identifier: Apache-2.0
"""Debian's kernel with all drivers: the cloud kernel of the tiny image has no 9p.

Fetched once on a host, as the tiny image's own kernel is; of its 400 MB only what the
tests load is kept.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from innkeeper.images.modules import select_modules
from innkeeper.images.package import unpack_package
from innkeeper.images.source import WANTED_MODULES
from innkeeper.registry.layout import plan_layout

FETCH_LIMIT_S = 300

MODULES = (*WANTED_MODULES, "9p", "9pnet_fd", "virtiofs", "overlay", "btrfs", "ext4", "crc32c")

_META = "linux-image-amd64"


def provide_full_kernel() -> Path:
    """The kernel's file, with its modules where innkeeper looks for them."""
    name = _package_name()
    cache = plan_layout(os.environ, os.geteuid()).cache / "test-images"
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder = cache / name
    if not folder.is_dir():
        _fetch(name, folder)
    (kernel,) = (folder / "boot").glob("vmlinuz-*")
    return kernel


def _run(*argv: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=FETCH_LIMIT_S, cwd=cwd, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{' '.join(argv)}: {done.stderr}")
    return done.stdout


def _package_name() -> str:
    match = re.search(r"Depends: (linux-image-\S+)", _run("apt-cache", "depends", _META))
    assert match is not None, f"apt knows no {_META}"
    return match[1]


def _fetch(name: str, folder: Path) -> None:
    half = folder.with_name(f".{name}.{os.getpid()}")
    half.mkdir()
    try:
        _run("apt-get", "download", name, cwd=half)
        (package,) = half.glob("*.deb")
        content = unpack_package(package)
        package.unlink()
        files = {f"boot/vmlinuz-{content.release}": content.vmlinuz}
        modules = f"lib/modules/{content.release}"
        for module in select_modules(content.modules, MODULES):
            files[f"{modules}/{module.path}"] = module.data
        builtin = sorted(content.modules.builtin)
        files[f"{modules}/modules.builtin"] = "".join(f"kernel/{n}.ko\n" for n in builtin).encode()
        for path, data in files.items():
            (half / path).parent.mkdir(parents=True, exist_ok=True)
            (half / path).write_bytes(data)
        half.rename(folder)
    finally:
        shutil.rmtree(half, ignore_errors=True)

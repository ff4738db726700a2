# SPDX-License-Identifier: Apache-2.0
"""Debian's cloud kernel, taken out of its package without installing it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from innkeeper.errors import HostError, ImageError, MissingProgram
from innkeeper.system.files import make_folder, naming_errors, temporary_folder
from innkeeper.system.output import program_output
from innkeeper.system.process import run_tool

if TYPE_CHECKING:
    import tarfile

    from innkeeper.images.modules import ModuleTree

META_PACKAGE = "linux-image-cloud-amd64"

_FILE = re.compile(
    r"linux-image-(?P<release>[0-9][a-z0-9.+~]*(?:-[a-z0-9.+~]+)*-cloud-amd64)"
    r"_(?P<version>[A-Za-z0-9.+~%-]+)_amd64\.deb"
)
_DEPENDS = re.compile(r"^\s*Depends: (linux-image-[a-z0-9.+~-]+-cloud-amd64)$", re.MULTILINE)

_CACHE_TIMEOUT_S = 60.0
_DOWNLOAD_TIMEOUT_S = 600.0

# The cloud kernel 6.1 has 93 MB of modules; one of a desktop has 400.
_MEMBER_MAXIMUM_BYTES = 256 << 20
_TOTAL_MAXIMUM_BYTES = 1 << 30
_CHUNK_BYTES = 1 << 16

Report = Callable[[str], None]


@dataclass(frozen=True)
class KernelPackage:
    """What was taken out of a kernel package."""

    release: str
    vmlinuz: bytes
    modules: ModuleTree


def find_package(packages: Path) -> Path | None:
    """The newest kernel package in a folder, or None."""
    found = [path for path in packages.glob("linux-image-*.deb") if _FILE.fullmatch(path.name)]
    return max(found, key=lambda path: _version_key(path.name), default=None)


def _version_key(name: str) -> tuple[tuple[tuple[int, str], ...], str]:
    """Order by the numbers in release and version; enough for one distribution's kernels."""
    match = _FILE.fullmatch(name)
    text = f"{match['release']}_{match['version']}" if match else name
    parts = re.findall(r"([0-9]+)|([^0-9]+)", text)
    return tuple((int(number or 0), other) for number, other in parts), name


def fetch_package(packages: Path, report: Report) -> Path:
    """Download the kernel package that the host's apt offers.

    Works as an ordinary user; nothing is installed.

    :raise ImageError: apt knows none, or the download failed.
    """
    make_folder(packages)
    try:
        known = run_tool(
            ["apt-cache", "depends", META_PACKAGE], stage="image", timeout_s=_CACHE_TIMEOUT_S
        )
        match = _DEPENDS.search(known.stdout.decode("utf-8", "replace"))
        if match is None:
            raise ImageError(
                f"apt knows no package that {META_PACKAGE} stands for",
                stage="image",
                fix="run `apt-get update` as root, then `make setup`",
            )
        report(f"downloading {match[1]}")
        # Into a folder of its own first: nobody may find a half of it.
        with temporary_folder(packages) as folder:
            run_tool(
                ["apt-get", "download", match[1]],
                stage="image",
                timeout_s=_DOWNLOAD_TIMEOUT_S,
                cwd=str(folder),
            )
            for loaded in folder.glob("*.deb"):
                with naming_errors(packages / loaded.name, doing="write", stage="image"):
                    loaded.replace(packages / loaded.name)
    except HostError as exc:
        raise ImageError(
            "there is no kernel package, and it cannot be downloaded",
            stage="image",
            evidence=(exc.brief, *exc.evidence),
            fix=f"run `make setup`, or put a {META_PACKAGE} package (.deb) into {packages}",
        ) from exc
    path = find_package(packages)
    if path is None:
        raise ImageError(
            f"apt-get downloaded no kernel package into {packages}", stage="image", fix="make setup"
        )
    return path


@dataclass
class _Content:
    release: str = ""
    vmlinuz: bytes = b""
    builtin: str = ""
    modules: dict[str, bytes] = field(default_factory=dict)
    total_bytes: int = 0


def unpack_package(package: Path) -> KernelPackage:
    """Take the kernel and its modules out of a package, in one pass and in memory.

    Only the names of the modules that are needed are known before all are read, so
    all of them are kept until then.

    :raise ImageError: it is no kernel package, or it is damaged.
    """
    # A start with a finished image does without these.
    import tarfile

    from innkeeper.images.modules import ModuleTree, builtin_names, index_modules

    content = _Content()
    try:
        with (
            program_output(["dpkg-deb", "--fsys-tarfile", str(package)], stage="image") as output,
            tarfile.open(fileobj=output, mode="r|") as tar,
        ):
            for member in tar:
                if member.isreg():
                    _take(content, member, tar.extractfile(member), package)
            # To the very end: only then is it known whether dpkg-deb was content.
            while output.read(_CHUNK_BYTES):
                pass
    except MissingProgram:
        raise
    except (tarfile.TarError, HostError, EOFError) as exc:
        evidence = (exc.brief, *exc.evidence) if isinstance(exc, HostError) else (str(exc),)
        raise ImageError(
            f"{package} cannot be unpacked",
            stage="image",
            evidence=evidence,
            fix=f"remove it and run `make setup`: rm {package}",
        ) from exc
    if not content.vmlinuz:
        raise ImageError(f"there is no kernel in {package}", stage="image", fix="make setup")
    modules = content.modules
    tree = ModuleTree(
        content.release, index_modules(modules), builtin_names(content.builtin), modules.__getitem__
    )
    return KernelPackage(content.release, content.vmlinuz, tree)


# Debian moved /lib to /usr/lib in trixie's packages.
_WANTED = re.compile(
    r"(?:\./)?(?:boot/vmlinuz-(?P<release>[^/]+)"
    r"|(?:usr/)?lib/modules/[^/]+/(?:(?P<builtin>modules\.builtin)"
    r"|(?P<module>kernel/(?:[^/]+/)*[^/]+\.ko(?:\.xz|\.zst|\.gz)?)))"
)


def _take(
    content: _Content, member: tarfile.TarInfo, file: IO[bytes] | None, package: Path
) -> None:
    match = _WANTED.fullmatch(member.name)
    if match is None or file is None or ".." in member.name.split("/"):
        return
    content.total_bytes += member.size
    if member.size > _MEMBER_MAXIMUM_BYTES or content.total_bytes > _TOTAL_MAXIMUM_BYTES:
        raise ImageError(f"{package} is too large for a kernel package", stage="image")
    data = file.read()
    if match["release"]:
        content.release, content.vmlinuz = match["release"], data
    elif match["builtin"]:
        content.builtin = data.decode("utf-8", "replace")
    else:
        content.modules[match["module"]] = data

# SPDX-License-Identifier: Apache-2.0
"""Kernel modules: which ones a set of drivers needs, and in which order.

Debian's packages carry no `modules.dep` (depmod makes it at installation), so the
dependencies are read from where depmod reads them: the `.modinfo` section of each
module. A name stands for a module with `-` and `_` taken as the same, as in modprobe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from innkeeper.errors import ImageError
from innkeeper.images.compression import decompress
from innkeeper.images.elf import Elf

# The longest suffix first.
_SUFFIXES = {".ko.xz": "xz", ".ko.zst": "zstd", ".ko.gz": "gzip", ".ko": ""}

# The largest modules (amdgpu) have about 30 MB.
_MODULE_MAXIMUM_BYTES = 256 << 20

# The longest chain of dependencies in Debian's kernels has about ten links.
_CHAIN_MAXIMUM = 64

# The plain C implementation behind an alias of the kernel's crypto API.
_SOFT = {
    "crc32c": "crc32c_generic",
    "sha256": "sha256_generic",
    "xxhash64": "xxhash_generic",
    "blake2b-256": "blake2b_generic",
}

_SIGNATURE_END = b"~Module signature appended~\n"


def module_name(path: str) -> str | None:
    """The module's name for the path of a .ko file (also compressed), or None."""
    base = PurePosixPath(path).name
    for suffix in _SUFFIXES:
        if base.endswith(suffix) and len(base) > len(suffix):
            return base.removesuffix(suffix).replace("-", "_")
    return None


@dataclass(frozen=True)
class ModuleInfo:
    """What a module says about itself.

    :ivar soft: what it asks for by alias and does not link to, such as "crc32c".
    """

    name: str
    depends: tuple[str, ...]
    soft: tuple[str, ...] = ()


def read_modinfo(data: bytes, path: str) -> ModuleInfo:
    """The name and dependencies of an uncompressed module.

    :raise ImageError: it is not a module.
    """
    section = Elf(data, path).section(".modinfo")
    if section is None:
        raise ImageError(f"{path} is not a kernel module", stage="image")
    name = module_name(path) or path
    depends: tuple[str, ...] = ()
    soft: tuple[str, ...] = ()
    for raw in section.split(b"\0"):
        key, _, value = raw.decode("utf-8", "replace").partition("=")
        if key == "name":
            name = value.replace("-", "_")
        elif key == "depends":
            depends = tuple(part.replace("-", "_") for part in value.split(",") if part)
        elif key == "softdep" and value.startswith("pre:"):
            soft = tuple(value.removeprefix("pre:").split())
    return ModuleInfo(name, depends, soft)


@dataclass(frozen=True)
class ModuleTree:
    """The modules of one kernel, wherever they are.

    :ivar release: the kernel's.
    :ivar paths: path below /lib/modules/<release> of every module file, by name.
    :ivar builtin: names of the modules that are part of the kernel.
    :ivar read: gives the content of a path.
    """

    release: str
    paths: Mapping[str, str]
    builtin: frozenset[str]
    read: Callable[[str], bytes]

    def lacking(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of these drivers that the kernel has in neither form; () where it cannot be told."""
        if not self.builtin:
            return ()
        have = self.builtin | self.paths.keys()
        return tuple(name for name in names if name.replace("-", "_") not in have)

    def load(self, name: str) -> bytes:
        """The content of a module, expanded, without its signature.

        :raise ImageError: it is damaged.
        """
        path = self.paths[name]
        data = self.read(path)
        kind = next(kind for suffix, kind in _SUFFIXES.items() if path.endswith(suffix))
        if kind:
            data = decompress(data, kind, limit=_MODULE_MAXIMUM_BYTES)
        return _without_signature(data)


@dataclass(frozen=True)
class Module:
    """A module for an initramfs.

    :ivar path: below /lib/modules/<release>, uncompressed.
    :ivar source: the same as it is in the tree.
    :ivar needs: paths of all the modules it needs; the ones loaded last come first,
        as in `modules.dep`.
    """

    name: str
    path: str
    source: str
    data: bytes
    needs: tuple[str, ...]


def index_modules(paths: Iterable[str]) -> dict[str, str]:
    """Module files by name. The first of two with the same name wins, in sorted order."""
    found: dict[str, str] = {}
    for path in sorted(paths):
        name = module_name(path)
        if name is not None:
            found.setdefault(name, path)
    return found


def builtin_names(modules_builtin: str) -> frozenset[str]:
    """The names in a `modules.builtin` file."""
    names = (module_name(line.strip()) for line in modules_builtin.splitlines())
    return frozenset(name for name in names if name is not None)


def folder_tree(folder: Path, release: str) -> ModuleTree:
    """The modules below a folder such as /lib/modules/<release>.

    :raise ImageError: a file cannot be read (later, by `load`).
    """

    def read(path: str) -> bytes:
        try:
            return (folder / path).read_bytes()
        except OSError as exc:
            raise ImageError(
                f"cannot read the module {folder / path}: {exc.strerror}", stage="image"
            ) from exc

    try:
        builtin = (folder / "modules.builtin").read_text("utf-8", "replace")
    except OSError:
        builtin = ""
    paths = [
        str(path.relative_to(folder))
        for path in folder.rglob("*.ko*")
        if path.is_file() and not path.is_symlink()
    ]
    return ModuleTree(release, index_modules(paths), builtin_names(builtin), read)


def select_modules(tree: ModuleTree, wanted: Iterable[str]) -> list[Module]:
    """The wanted modules and all they need, each after those it needs.

    Names that are built in or do not exist are passed over; what a found module needs
    has to be there.

    :raise ImageError: a dependency is missing, or they run in a circle.
    """
    return _Selection(tree).run(wanted)


class _Selection:
    def __init__(self, tree: ModuleTree) -> None:
        self._tree = tree
        self._done: dict[str, Module] = {}

    def run(self, wanted: Iterable[str]) -> list[Module]:
        for name in wanted:
            key = name.replace("-", "_")
            if key in self._tree.paths and key not in self._tree.builtin:
                self._add(key, ())
        return list(self._done.values())

    def _add(self, name: str, chain: tuple[str, ...]) -> None:
        if name in self._done or name in self._tree.builtin:
            return
        if name in chain or len(chain) > _CHAIN_MAXIMUM:
            raise ImageError(
                f"the modules of kernel {self._tree.release} need each other in a circle",
                stage="image",
                evidence=(" -> ".join((*chain, name)),),
            )
        if name not in self._tree.paths:
            raise ImageError(
                f"kernel {self._tree.release} has no module {name}, which {chain[-1]} needs",
                stage="image",
                fix="install the whole kernel package, or give another with --kernel",
            )
        source = self._tree.paths[name]
        data = self._tree.load(name)
        info = read_modinfo(data, source)
        soft = (_SOFT.get(other, other.replace("-", "_")) for other in info.soft)
        # Without modprobe nobody loads these when the kernel asks for their alias.
        known = (other for other in soft if other in self._tree.paths and other not in chain)
        depends = tuple(dict.fromkeys((*known, *info.depends)))
        for other in depends:
            self._add(other, (*chain, name))
        self._done[name] = Module(name, _plain(source), source, data, self._needs(depends))

    def _needs(self, depends: tuple[str, ...]) -> tuple[str, ...]:
        paths: list[str] = []
        for other in depends:
            module = self._done.get(other)
            if module is not None:
                paths.extend(module.needs[::-1])
                paths.append(module.path)
        return tuple(reversed(dict.fromkeys(paths)))


def modules_dep(modules: Iterable[Module]) -> bytes:
    """The text of `modules.dep` (modules.dep(5)); loading goes from right to left."""
    lines = [f"{module.path}: {' '.join(module.needs)}".rstrip() for module in modules]
    return "".join(f"{line}\n" for line in lines).encode()


def _plain(path: str) -> str:
    suffix = next(suffix for suffix in _SUFFIXES if path.endswith(suffix))
    return path.removesuffix(suffix) + ".ko"


def _without_signature(data: bytes) -> bytes:
    """A module without the signature at its end (Documentation/admin-guide/module-signing.rst).

    A kernel that does not insist on signatures loads it all the same, without the
    seconds that checking it costs an emulated CPU.
    """
    if not data.endswith(_SIGNATURE_END):
        return data
    # struct module_signature: 8 bytes, then the signature's size, big endian.
    at = len(data) - len(_SIGNATURE_END) - 12
    size = int.from_bytes(data[at + 8 : at + 12], "big") if at > 0 else 0
    return data[: at - size] if 0 < size <= at else data

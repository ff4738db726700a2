# SPDX-License-Identifier: Apache-2.0
"""A recipe: what a Debian image is made of, as TOML or as options of `inn image build`."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

import msgspec

from innkeeper.errors import UnknownName, UsageError

Distribution = Literal["debian"]
Suite = Literal["bookworm", "trixie"]
Init = Literal["agent", "systemd"]
RootFormat = Literal["erofs", "squashfs", "ext4"]
Flavour = Literal["cloud", "amd64"]

SUITES: tuple[Suite, ...] = get_args(Suite)

# When the suites were released: no file in an image is newer, whenever it is built.
_RELEASED: dict[Suite, int] = {"bookworm": 1686355200, "trixie": 1754697600}

# Debian Policy 5.6.1; with a version or an architecture apt would understand more than a name.
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.-]{1,127}")
_COMPONENT = re.compile(r"[a-z0-9-]{1,40}")
_MIRROR = re.compile(r"[a-z][a-z0-9+]*:[!-~]{1,512}")
_UNIT = re.compile(r"[A-Za-z0-9:_.@\\-]{1,255}")
_STAGE = "recipe"


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a Debian image is made of.

    :ivar packages: beside those that every image has.
    :ivar init: what becomes PID 1: our agent, or systemd with the agent as a service.
    :ivar format: of the root file system.
    :ivar kernels: flavours of Debian's kernel; the first one is the default.
    :ivar mirror: address of a Debian mirror; "" leaves the choice to mmdebstrap.
    :ivar components: of the mirror.
    :ivar epoch: seconds since 1970; no file is newer. 0: the suite's release.
    :ivar mask: systemd units that are never started.
    :ivar files: text by absolute path; a text that begins with `#!` is executable.
    """

    distribution: Distribution = "debian"
    suite: Suite = "bookworm"
    packages: tuple[str, ...] = ()
    init: Init = "systemd"
    format: RootFormat = "erofs"
    kernels: tuple[Flavour, ...] = ("cloud",)
    mirror: str = ""
    components: tuple[str, ...] = ("main",)
    epoch: int = 0
    mask: tuple[str, ...] = ()
    files: dict[str, str] = {}

    def __post_init__(self) -> None:
        _check_each(self.packages, _PACKAGE, "the name of a Debian package")
        _check_each(self.components, _COMPONENT, "a component such as main")
        _check_each(self.mask, _UNIT, "the name of a systemd unit")
        if self.mirror:
            _check_each((self.mirror,), _MIRROR, "the address of a mirror")
        if not self.kernels or len(set(self.kernels)) != len(self.kernels):
            raise UsageError(
                "a recipe needs kernels, each flavour once", stage=_STAGE, fix="cloud or amd64"
            )
        if not self.components or self.epoch < 0:
            raise UsageError("a recipe needs components and no time before 1970", stage=_STAGE)
        for path in self.files:
            _check_path(path)

    @property
    def source_epoch(self) -> int:
        """The time after which no file of the image is, in seconds since 1970."""
        return self.epoch or _RELEASED[self.suite]


def _check_each(names: tuple[str, ...], pattern: re.Pattern[str], what: str) -> None:
    for name in names:
        if pattern.fullmatch(name) is None:
            raise UsageError(f"{name!r} is not {what}", stage=_STAGE)


def _check_path(path: str) -> None:
    parts = path.split("/")
    if not path.startswith("/") or any(part in ("", ".", "..") for part in parts[1:]):
        raise UsageError(
            f"{path!r} is not a path in the image",
            stage=_STAGE,
            fix="write it from the root on, as /etc/motd",
        )


def recipe_from_table(table: dict[str, Any], *, source: str) -> Recipe:
    """The recipe in a decoded table.

    :param source: the file or the command line, for errors.
    :raise UsageError: it has an unknown key or an impossible value; the nearest is told.
    """
    fields = Recipe.__struct_fields__
    for key in table:
        if key not in fields:
            raise UnknownName(f"key in {source}:", key, fields, stage=_STAGE)
    choices: tuple[tuple[str, str, tuple[str, ...]], ...] = (
        ("distribution", "distribution", get_args(Distribution)),
        ("suite", "suite", SUITES),
        ("init", "init", get_args(Init)),
        ("format", "root file system", get_args(RootFormat)),
    )
    for key, kind, known in choices:
        value = table.get(key, known[0])
        if isinstance(value, str) and value not in known:
            raise UnknownName(kind, value, known, stage=_STAGE)
    kernels = table.get("kernels", ())
    for flavour in kernels if isinstance(kernels, list | tuple) else ():
        if flavour not in get_args(Flavour):
            raise UnknownName("kernel flavour", str(flavour), get_args(Flavour), stage=_STAGE)
    try:
        return msgspec.convert(table, Recipe)
    except msgspec.ValidationError as exc:
        raise UsageError(f"{source}: {exc}", stage=_STAGE) from exc


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of a recipe file."""
    (_,), components = msgspec.json.schema_components([Recipe], ref_template="#/$defs/{name}")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **components["Recipe"],
        "title": "An innkeeper image recipe",
    }

# SPDX-License-Identifier: Apache-2.0
"""Being root over a folder: as root, or as a user with a range of other users' ids.

A root file system has files of many owners. An ordinary user makes them in a user
namespace, in which he is root and the ids from /etc/subuid are everybody else
(user_namespaces(7), newuidmap(1)); on the host, they are his.
"""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Sequence
from pathlib import Path

from innkeeper.errors import HostError, InnError
from innkeeper.model.idmap import subordinate_ranges
from innkeeper.system.process import find_program, run_tool

# Debian gives 65536; nobody (65534) has to be among them.
_IDS_MINIMUM = 65535
_PROBE_TIMEOUT_S = 20.0

# Mounts and processes of what runs in it end with it, also after a SIGKILL.
_OWN_SPACE = ("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL")
_MAPPED = ("--map-root-user", "--map-auto")


def root_prefix(uid: int) -> tuple[str, ...]:
    """What comes before a command that has to be root over what is ours. Pure."""
    return (*_OWN_SPACE, *(() if uid == 0 else _MAPPED), "--")


def namespace_probes(uid: int) -> tuple[tuple[str, ...], ...]:
    """The commands that show, in this order, whether `root_prefix` works. Pure.

    Refused by the kernel, unshare of util-linux 2.41 leaves a process of --map-auto
    behind, with our pipes open: we would wait for it until the time is over.
    So a user's first probe does without.
    """
    mapped = (*root_prefix(uid), "true")
    return (mapped,) if uid == 0 else ((*_OWN_SPACE, "--user", "--", "true"), mapped)


def as_root(argv: Sequence[str]) -> list[str]:
    """A command as root over what is ours, with processes and mounts of its own."""
    return [*root_prefix(os.geteuid()), *argv]


def root_environment() -> dict[str, str]:
    """A PATH with the administrators' programs, such as mke2fs, which a user's does not have."""
    return {"PATH": f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"}


def has_range(table: str, user: str, uid: int) -> bool:
    """True when a /etc/subuid or /etc/subgid gives a user enough ids. Pure."""
    return any(count >= _IDS_MINIMUM for _, count in subordinate_ranges(table, user, uid))


def check_mapped() -> None:
    """See that this user can be root over a folder.

    :raise HostError: something is missing; the fix says what.
    """
    uid = os.geteuid()
    if uid != 0:
        _check_ids(uid)
    try:
        for probe in namespace_probes(uid):
            run_tool(probe, stage="build", timeout_s=_PROBE_TIMEOUT_S)
    except HostError as exc:
        raise HostError(
            "this user cannot make a namespace to build in",
            stage="build",
            evidence=(exc.brief, *exc.evidence),
            fix="see user_namespaces(7) and `sysctl kernel.unprivileged_userns_clone "
            "kernel.apparmor_restrict_unprivileged_userns`, or build as root",
        ) from exc


def _check_ids(uid: int) -> None:
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    if find_program("newuidmap") is None:
        raise HostError(
            "newuidmap is not installed, without which only root can build images",
            stage="build",
            fix="sudo apt-get install uidmap",
        )
    lacking = [
        path for path in ("/etc/subuid", "/etc/subgid") if not has_range(_read(path), user, uid)
    ]
    if lacking:
        raise HostError(
            f"the user {user} has no ids for the owners of an image's files",
            stage="build",
            evidence=(f"no line with {_IDS_MINIMUM + 1} ids for {user} in {', '.join(lacking)}",),
            fix=f"sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
        )


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", "replace")
    except OSError:
        return ""


def remove_owned(folder: Path) -> None:
    """Remove a folder in which files of mapped owners may be, as far as that is possible."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists() and os.geteuid() != 0:
        try:
            run_tool(
                as_root(["rm", "-rf", "--one-file-system", str(folder)]),
                stage="build",
                timeout_s=600.0,
                check=False,
            )
        except InnError:
            return

# SPDX-License-Identifier: Apache-2.0
"""Which virtiofsd is installed; asked once, then remembered.

Debian 12 has QEMU's own, written in C (package qemu-system-common), Debian 13 the
later one in Rust (package virtiofsd); their options differ.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path

from innkeeper._version import __version__
from innkeeper.errors import HostError, MissingProgram
from innkeeper.model.share import ServerFacts, ServerUsers, Share
from innkeeper.shares.plan import share_word
from innkeeper.shares.users import host_ids, plan_users, users_word
from innkeeper.system import share_sandbox
from innkeeper.system.process import Completed, require_program, run_tool
from innkeeper.system.remembered import program_identity, recall, remember

_PROGRAM = "virtiofsd"
_NINEP = Path(__file__).parent.parent / "_host" / "inn-9p"
_TIMEOUT_S = 10.0
INSTALL_FIX = "apt-get install virtiofsd (Debian 13), or qemu-system-common (Debian 12)"
_REINSTALL_FIX = (
    "install the package anew: apt-get install --reinstall virtiofsd (Debian 13), "
    "or qemu-system-common (Debian 12); or name another program in INN_VIRTIOFSD"
)
# By whether a user namespace maps, or the mounts.
_MAP_FIX = {
    True: "newuidmap and newgidmap must be set-user-ID or have capabilities (package uidmap), "
    "and a container must let them; or add squash, which needs neither",
    False: "share from ext4, xfs, btrfs or tmpfs, or without uid=, gid=, id= and squash: the "
    "kernel maps on mounts (from 5.12 on, tmpfs from 6.3), by root of the host",
}


def find_virtiofsd() -> str:
    """The path of virtiofsd: `INN_VIRTIOFSD`, or where Debian has it.

    :raise MissingProgram: there is none.
    """
    wanted = os.environ.get("INN_VIRTIOFSD") or _PROGRAM
    return require_program(wanted, stage="shares", fix=INSTALL_FIX)


def ninep_facts() -> ServerFacts:
    """Our own 9P server, which came with innkeeper.

    :raise MissingProgram: it was not built.
    """
    if not os.access(_NINEP, os.X_OK):
        raise MissingProgram(f"there is no {_NINEP}", stage="shares", fix="run `make setup`")
    return ServerFacts(path=str(_NINEP), flavour="9p", version=__version__)


def virtiofsd_facts(cache_dir: Path) -> ServerFacts:
    """What the installed virtiofsd is, from the cache where the binary is the same.

    :raise MissingProgram: there is none.
    :raise HostError: it does not run on this host, or is none that we know.
    """
    path = find_virtiofsd()
    identity = program_identity(path)
    remembered = cache_dir / "virtiofsd.json"
    known = recall(remembered, identity, ServerFacts)
    if known is not None:
        return known
    done = run_tool([path, "--version"], stage="shares", timeout_s=_TIMEOUT_S, check=False)
    if done.returncode != 0 and os.geteuid() != 0:
        # The C one says nothing, not even that, to who is in groups that he may not leave.
        inside = _try_sandbox(plan_users((), host_ids()), (), (path, "--version"))
        done = inside if inside.returncode == 0 else done
    facts = parse_facts(path, done)
    with contextlib.suppress(HostError):
        remember(remembered, identity, facts)
    return facts


def try_namespaces(users: ServerUsers) -> None:
    """Make the namespaces of a share server once, with nothing in them.

    :raise HostError: this host does not let this user.
    """
    done = _try_sandbox(users, ())
    if done.returncode != 0:
        raise HostError(
            "this host lets no share server have namespaces of its own",
            stage="shares",
            evidence=done.error_lines(1),
            fix="sysctl kernel.unprivileged_userns_clone=1 and user.max_user_namespaces "
            "above 0 let users; a container needs CAP_SYS_ADMIN",
        )


def try_maps(users: ServerUsers, shares: tuple[Share, ...]) -> None:
    """See that the file systems of these shares, or this host, take the maps of their users.

    :raise HostError: one does not; it says which.
    """
    done = _try_sandbox(users, shares)
    if done.returncode != 0:
        raise HostError(
            "the users of a share cannot be mapped",
            stage="shares",
            evidence=done.error_lines(1),
            fix=_MAP_FIX[users.own_user],
        )


def _try_sandbox(
    users: ServerUsers, shares: tuple[Share, ...], server: tuple[str, ...] = ("/bin/true",)
) -> Completed:
    with tempfile.TemporaryDirectory() as root:
        start = [sys.executable, "-I", "-S", share_sandbox.__file__, "serve", root]
        words = [share_word(share, users) for share in shares]
        argv = [*start, users_word(users), *words, "--", *server]
        return run_tool(argv, stage="shares", timeout_s=_TIMEOUT_S, check=False)


def parse_facts(path: str, done: Completed) -> ServerFacts:
    """What the virtiofsd at `path` is, by what its `--version` said and returned. Pure.

    :raise HostError: it failed, as one does that was built for another C library, or
        says nothing that we know.
    """
    lines = (done.stdout or done.stderr).decode("utf-8", "replace").strip().splitlines()
    said = tuple(lines[-4:]) or ("it said nothing",)
    if done.returncode != 0:
        raise HostError(
            f"{path} --version failed with exit code {done.returncode}",
            stage="shares",
            evidence=said,
            fix=_REINSTALL_FIX,
        )
    # "virtiofsd version 7.2.22 (Debian ...)" and, in Rust, "virtiofsd 1.13.2".
    match = re.match(r"virtiofsd (version )?(\d[\w.~+-]*)", lines[0] if lines else "")
    if match is None:
        raise HostError(
            f"{path} is no virtiofsd that innkeeper knows",
            stage="shares",
            evidence=said,
            fix=_REINSTALL_FIX,
        )
    return ServerFacts(path=path, flavour="c" if match[1] else "rust", version=match[2])

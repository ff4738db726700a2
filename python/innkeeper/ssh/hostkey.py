# SPDX-License-Identifier: Apache-2.0
"""The one host key of a user's machines, and the file that makes `ssh` know it.

Both ends of every connection are this user's processes on this host; the key
only spares the question whether a new host is to be trusted.
"""

from __future__ import annotations

import asyncssh

from innkeeper.errors import HostError
from innkeeper.registry.layout import Layout, SshFolder
from innkeeper.system.files import move_folder, temporary_folder, write_atomic, write_new

# The name under which `ssh` looks the key up (HostKeyAlias), whatever the machine's is.
ALIAS = "innkeeper"
ALGORITHM = "ssh-ed25519"


def known_hosts_line(key: asyncssh.SSHKey) -> bytes:
    """The content of our known_hosts file."""
    kind, data = key.export_public_key().split()[:2]
    return b"%s %s %s\n" % (ALIAS.encode(), kind, data)


def host_key(layout: Layout) -> asyncssh.SSHKey:
    """The key, made at the first call; the known_hosts file is there afterwards.

    :raise HostError: it cannot be read or made.
    """
    folder = layout.ssh
    if not folder.path.is_dir():
        _make(layout, folder)
    try:
        key = asyncssh.read_private_key(folder.host_key)
    except (OSError, asyncssh.KeyImportError) as exc:
        raise HostError(
            f"the host key {folder.host_key} cannot be used",
            stage="ssh",
            evidence=(str(exc),),
            fix=f"remove the folder {folder.path}; the next connection makes it anew",
        ) from exc
    line = known_hosts_line(key)
    try:
        is_known = folder.known_hosts.read_bytes() == line
    except OSError:
        is_known = False
    if not is_known:
        write_atomic(folder.known_hosts, line)
    return key


def _make(layout: Layout, folder: SshFolder) -> None:
    """The folder with both files, whole or not at all; who comes second takes the first's."""
    key = asyncssh.generate_private_key(ALGORITHM, comment=ALIAS)
    with temporary_folder(layout.machines.parent) as made:
        half = SshFolder(made)
        write_new(half.host_key, key.export_private_key())
        write_new(half.known_hosts, known_hosts_line(key))
        move_folder(made, folder.path)

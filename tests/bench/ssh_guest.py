# SPDX-License-Identifier: Apache-2.0
"""OpenSSH's server in a guest of ours, and its client with the vsock socket behind it."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.bench import overlays
from tests.bench.guests import HeldGuest, held_guest
from tests.bench.samples import Skipped
from tests.bench.workspace import Workspace, run_quietly, wait_until

from innkeeper.agent.connect import connect_port
from innkeeper.errors import GuestError
from innkeeper.images.cpio import Archive

# Since 9.8 and 10.0 sshd has parts of itself in programs of their own.
_SSHD_PARTS = ("/usr/lib/openssh/sshd-session", "/usr/lib/openssh/sshd-auth")

# OpenSSH's defaults, but for what a guest without accounts and names cannot do.
_SERVER = """\
HostKey /etc/ssh/ssh_host_ed25519_key
AuthorizedKeysFile /etc/ssh/authorized_keys
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
PidFile none
"""

_SSH_PORT = 22

_CLIENT = """\
Host guest
    User root
    IdentityFile {folder}/id
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    StrictHostKeyChecking no
    LogLevel ERROR
    ProxyCommand {connect} {vsock} 22
    ProxyUseFdpass yes
"""

_ACCOUNTS = """\
root::0:0:root:/root:/bin/sh
sshd:x:101:65534::/run/sshd:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""

# The agent mounts over /run, so the folder is made in the guest.
_SERVE = (
    "mkdir -p /run/sshd && echo READY && exec {socat}"
    " VSOCK-LISTEN:22,fork EXEC:'{sshd} -i -f /etc/ssh/sshd_config'"
)


@dataclass(frozen=True)
class SshGuest:
    """A guest that serves both ssh and the agent.

    :ivar fresh: argv of one ssh that runs `true`.
    :ivar shared: the same over a connection that is already open.
    """

    guest: HeldGuest
    fresh: list[str]
    shared: list[str]


@contextlib.contextmanager
def ssh_guest(bench: Workspace) -> Iterator[SshGuest]:
    """A guest with sshd behind vsock port 22, and a master connection to it."""
    how = "apt install openssh-server openssh-client socat"
    sshd, socat, ssh = (bench.tool(name, how) for name in ("sshd", "socat", "ssh"))
    connect = bench.compiled("client/connect_port.c", "-O2")
    folder = bench.folder / "ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    initrd = _overlay(bench, folder, sshd, socat)
    serve = _SERVE.format(socat=socat, sshd=sshd)
    command = ("/bin/sh", "-c", serve)
    with held_guest(bench, "bench-ssh", command, b"READY\n", "--initrd", str(initrd)) as guest:
        log = bench.folder / f"{guest.name}.log"
        wait_until(lambda: _answers(guest), "socat in the guest", guest.process, log)
        config = folder / "config"
        values = {"folder": folder, "connect": connect, "vsock": guest.vsock}
        config.write_text(_CLIENT.format(**values))
        fresh = [ssh, "-F", str(config), "guest", "true"]
        with _master(ssh, config, folder / "m") as control:
            shared = [ssh, "-F", str(config), "-S", str(control), "guest", "true"]
            yield SshGuest(guest, fresh, shared)


def _answers(guest: HeldGuest) -> bool:
    try:
        connect_port(guest.vsock, _SSH_PORT, timeout_s=10).close()
    except GuestError:
        return False
    return True


@contextlib.contextmanager
def _master(ssh: str, config: Path, control: Path) -> Iterator[Path]:
    """A master connection (ssh_config(5), ControlMaster) that ends with the block."""
    common = [ssh, "-F", str(config), "-S", str(control)]
    # -f lets go of the terminal once the connection stands; the pipes must not stay open.
    quiet = subprocess.DEVNULL
    argv = [*common, "-M", "-N", "-f", "guest"]
    done = subprocess.run(argv, stdin=quiet, stdout=quiet, stderr=quiet, timeout=60, check=False)
    if done.returncode != 0:
        run_quietly([*common, "guest", "true"])
        raise Skipped("ssh opened no master connection")
    try:
        yield control
    finally:
        subprocess.run(
            [*common, "-O", "exit", "guest"], stdout=quiet, stderr=quiet, timeout=60, check=False
        )


def _overlay(bench: Workspace, folder: Path, sshd: str, socat: str) -> Path:
    keygen = shutil.which("ssh-keygen") or "ssh-keygen"
    for name in ("id", "host"):
        if not (folder / name).exists():
            run_quietly([keygen, "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)])
    archive = Archive()
    parts = [part for part in _SSHD_PARTS if Path(part).exists()]
    for program in (sshd, socat, *parts):
        overlays.add_program(archive, program)
    archive.file("etc/passwd", _ACCOUNTS.encode())
    archive.file("etc/ssh/sshd_config", _SERVER.encode())
    archive.file("etc/ssh/ssh_host_ed25519_key", (folder / "host").read_bytes(), 0o600)
    archive.file("etc/ssh/authorized_keys", (folder / "id.pub").read_bytes())
    return overlays.appended(bench, "ssh", archive)

# SPDX-License-Identifier: Apache-2.0
"""Every folder and file name of innkeeper on this host, named once (XDG, or FHS as root)."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from innkeeper.errors import HostError
from innkeeper.model.share import NINEP_PORT

# Names of files, for those who read many folders and make no `Path` of each.
DEFINITION = "machine.json"
RECORD = "record.json"
LOCK = "lock"


class Layout(msgspec.Struct, frozen=True):
    """The three roots.

    :ivar runtime_dir: sockets and locks of running guests.
    :ivar cache_dir: what can be made again: images, packages, probe results.
    :ivar state_dir: machines and their logs.
    """

    runtime_dir: str
    cache_dir: str
    state_dir: str

    @property
    def runtime(self) -> Path:
        """`runtime_dir` as a path."""
        return Path(self.runtime_dir)

    @property
    def cache(self) -> Path:
        """`cache_dir` as a path."""
        return Path(self.cache_dir)

    @property
    def machines(self) -> Path:
        """The folder with a folder for each machine."""
        return Path(self.state_dir) / "machines"

    @property
    def images(self) -> Path:
        """Parent of the stored bundles' folders (`innkeeper.model.bundle`)."""
        return Path(self.state_dir) / "images"

    @property
    def disks(self) -> Path:
        """Parent of the folders of disks that stay (`innkeeper.model.disk`)."""
        return Path(self.state_dir) / "disks"

    @property
    def topologies(self) -> Path:
        """The folder with a file for each topology that is up."""
        return Path(self.state_dir) / "topologies"

    def topology(self, name: str) -> Path:
        """The file of the topology with this name (`innkeeper.registry.topologies`)."""
        return self.topologies / f"{name}.json"

    @property
    def ssh(self) -> SshFolder:
        """What `ssh` needs to know of this user's machines."""
        return SshFolder(Path(self.state_dir) / "ssh")

    def machine(self, name: str) -> MachineFolder:
        """The folder of the machine with this name."""
        return MachineFolder(self.machines / name)

    def guest(self, name: str) -> GuestFolder:
        """The runtime folder of the guest with this name."""
        return GuestFolder(self.runtime / name)


class GuestFolder(msgspec.Struct, frozen=True):
    """The runtime folder of one guest."""

    path: Path

    @property
    def lock(self) -> Path:
        """Held by the keeper for its whole life."""
        return self.path / LOCK

    @property
    def state(self) -> Path:
        """The record of the running guest (`innkeeper.model.record`) as JSON."""
        return self.path / "state.json"

    @property
    def keeper(self) -> Path:
        """The keeper's own socket: stop, pause, resume, events."""
        return self.path / "keeper.sock"

    @property
    def vsock(self) -> Path:
        """Host to guest: `CONNECT <port>`."""
        return self.path / "vsock.sock"

    @property
    def announce(self) -> Path:
        """Guest to host, port 7777."""
        return self.service(7777)

    def service(self, port: int) -> Path:
        """Guest to host, any port, where no topology says what it leads to."""
        return self.path / f"{self.vsock.name}_{port}"

    def link(self, cid: int) -> Path:
        """Where the device of the guest with this CID connects for streams to this guest."""
        return self.path / f"from_{cid}.sock"

    @property
    def guest_rings(self) -> Path:
        """Programs of the guest to its rings, port 7078 (docs/reference/rings-protocol.md)."""
        return self.service(7078)

    @property
    def rings(self) -> Path:
        """Programs of the host to the guest's rings."""
        return self.path / "rings.sock"

    def ring_link(self, cid: int) -> Path:
        """Where the keeper of the guest with this CID connects for messages to this guest."""
        return self.path / f"rings_from_{cid}.sock"

    @property
    def firmware_variables(self) -> Path:
        """The UEFI variables of a guest that nobody keeps."""
        return self.path / "uefi-vars.fd"

    @property
    def agent(self) -> Path:
        """Straight to guest port 8888 (gRPC)."""
        return self.path / "agent.sock"

    @property
    def shares(self) -> Path:
        """Where the shares are mounted, in their server's namespaces; empty for everybody else."""
        return self.path / "shares"

    @property
    def shares_socket(self) -> Path:
        """There only while the share server starts."""
        return self.path / "shares.sock"

    @property
    def shares_port(self) -> Path:
        """Guest to host, the port of shares over 9P."""
        return self.service(NINEP_PORT)


class LogFolder(msgspec.Struct, frozen=True):
    """A folder with the logs of one guest."""

    path: Path

    @property
    def console_log(self) -> Path:
        """What the guest wrote on its console."""
        return self.path / "console.log"

    @property
    def guest_log(self) -> Path:
        """What the guest's kernel and programs report, a JSON object a line."""
        return self.path / "guest.log"

    @property
    def keeper_log(self) -> Path:
        """What the keeper has to say, a JSON object a line."""
        return self.path / "keeper.log"

    @property
    def audit(self) -> Path:
        """What other guests asked of it and it of them, a JSON object a line."""
        return self.path / "audit.log"


class MachineFolder(LogFolder, frozen=True):
    """The folder of one machine, which stays."""

    @property
    def definition(self) -> Path:
        """The machine (`innkeeper.model.machine`) as JSON."""
        return self.path / DEFINITION

    @property
    def record(self) -> Path:
        """What is known of its life (`innkeeper.model.record`) as JSON."""
        return self.path / RECORD

    @property
    def firmware_variables(self) -> Path:
        """The machine's UEFI variables, as its firmware and its guest wrote them."""
        return self.path / "uefi-vars.fd"

    @property
    def layer(self) -> Path:
        """What the guest wrote over its image's root, a disk."""
        return self.path / "layer.img"

    @property
    def own_root(self) -> Path:
        """A copy of its image's root, to which the guest writes."""
        return self.path / "root.img"

    @property
    def layer_description(self) -> Path:
        """Over which image the layer, or of which the copy was made, as JSON."""
        return self.path / "layer.json"


class SshFolder(msgspec.Struct, frozen=True):
    """The folder with the one host key that all machines of a user show."""

    path: Path

    @property
    def host_key(self) -> Path:
        """The private key, in OpenSSH's format, mode 0600."""
        return self.path / "host_key"

    @property
    def known_hosts(self) -> Path:
        """The public key, as `ssh` wants to find it."""
        return self.path / "known_hosts"


def plan_layout(env: Mapping[str, str], uid: int) -> Layout:
    """The folders for this environment and user. Pure."""
    home = Path(env.get("HOME") or "/")
    if uid == 0:
        runtime, cache = Path("/run/innkeeper"), Path("/var/cache/innkeeper")
        state = Path("/var/lib/innkeeper")
    else:
        state = Path(env.get("XDG_STATE_HOME") or home / ".local/state") / "innkeeper"
        runtime_home = env.get("XDG_RUNTIME_DIR")
        runtime = Path(runtime_home) / "innkeeper" if runtime_home else state / "run"
        cache = Path(env.get("XDG_CACHE_HOME") or home / ".cache") / "innkeeper"
    return Layout(
        runtime_dir=env.get("INN_RUNTIME_DIR") or str(runtime),
        cache_dir=env.get("INN_CACHE_DIR") or str(cache),
        state_dir=env.get("INN_STATE_DIR") or str(state),
    )


def host_layout() -> Layout:
    """The folders of this process's user, created with mode 0700 where missing.

    :raise HostError: one cannot be created or belongs to somebody else.
    """
    layout = plan_layout(os.environ, os.geteuid())
    for folder, variable in (
        (layout.runtime, "INN_RUNTIME_DIR"),
        (layout.cache, "INN_CACHE_DIR"),
        (Path(layout.state_dir), "INN_STATE_DIR"),
    ):
        _check_way(folder, variable)
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = folder.stat()
        except OSError as exc:
            raise HostError(
                f"cannot create the folder {folder}: {exc.strerror}",
                stage="folders",
                fix=f"set {variable} to a folder that you can write",
            ) from exc
        if found.st_uid != os.geteuid():
            raise HostError(
                f"the folder {folder} belongs to another user",
                stage="folders",
                evidence=(f"owner is uid {found.st_uid}",),
                fix=f"set {variable} to a folder of your own",
            )
        if found.st_mode & (0o022 if variable == "INN_RUNTIME_DIR" else 0o002):
            raise HostError(
                f"other users can write the folder {folder}",
                stage="folders",
                fix=f"chmod 700 {folder}",
            )
    return layout


def _check_way(folder: Path, variable: str) -> None:
    """Refuse a folder on whose way somebody else could put another in its place.

    :raise HostError: a link is another user's; or, for the runtime folder, which is swept,
        a folder above it can be written by everybody.
    """
    # In a user namespace, root's files look like those of whoever owns "/".
    trusted = {0, os.geteuid(), Path("/").stat().st_uid}
    path = folder.absolute()
    for part in (*reversed(path.parents), path):
        try:
            found = part.lstat()
        except OSError:
            return  # what is missing is made by us
        if stat.S_ISLNK(found.st_mode) and found.st_uid not in trusted:
            raise HostError(
                f"{part} is a link of another user",
                stage="folders",
                evidence=(f"owner is uid {found.st_uid}",),
                fix=f"set {variable} to a folder of your own, without that link",
            )
        everybody = found.st_mode & 0o002 and not found.st_mode & stat.S_ISVTX
        if variable == "INN_RUNTIME_DIR" and stat.S_ISDIR(found.st_mode) and everybody:
            raise HostError(
                f"other users can write the folder {part}",
                stage="folders",
                fix=f"set {variable} to a folder elsewhere, or chmod o-w {part}",
            )

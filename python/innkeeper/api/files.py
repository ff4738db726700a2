# SPDX-License-Identifier: Apache-2.0
"""Files of a guest: read and written by its own `cat` and `tar`, over a session."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from innkeeper.agent.transfer import archive
from innkeeper.agent.unpack import Policy, Unpacker
from innkeeper.api.completed import CompletedExec
from innkeeper.errors import GuestError, ProtocolError, TimedOut, UsageError
from innkeeper.system.files import make_folder, move_folder, naming_errors, temporary_folder

if TYPE_CHECKING:
    from innkeeper.api.commands import Commands

READ_LIMIT_BYTES = 64 << 20
PULL_LIMIT_BYTES = 4 << 30
PULL_LIMIT_ENTRIES = 200_000
_KEEP_STDERR_BYTES = 64 << 10
# A tar that failed has ended this long after its output.
_LAST_WORDS_S = 1.0

# Each is read by the guest's sh; paths come as its arguments, never as its text.
_WRITE = (
    'if [ -d "$1" ]; then echo "$1 is a folder" >&2; exit 1; fi; part="$1.part-$$"; '
    'if cat >"$part" && chmod "$2" "$part" && mv -f "$part" "$1"; then exit 0; fi; '
    'rm -f "$part"; exit 1'
)
_UNPACK = 'mkdir -p "$1" && exec tar -xf - -C "$1"'
_PACK_FOLDER = 'cd "$1" && exec tar -cf - .'
_PACK_FILE = 'exec tar -chf - -C "$1" -- "$2"'


class GuestFiles:
    """The files of a running guest, as root sees them. `vm.files`.

    Paths of the guest are absolute. Every method raises `GuestError` where the
    machine does not run, and `ExecError` with the guest's words where the guest
    could not do it.
    """

    def __init__(self, machine: Commands) -> None:
        self._machine = machine

    def read(self, path: str, *, max_bytes: int = READ_LIMIT_BYTES) -> bytes:
        """The content of a file.

        :raise ExecError: there is none, or it cannot be read.
        :raise GuestError: it has more than `max_bytes`.
        """
        argv = ["cat", "--", _absolute(path)]
        done = self._machine.exec(argv, check=True, max_output_bytes=max_bytes)
        if done.truncated:
            raise GuestError(
                f"{path} has more than {max_bytes} bytes",
                stage="files",
                fix="give a larger max_bytes, or use pull()",
            )
        return done.stdout

    def write(self, path: str, data: bytes | str, *, mode: int = 0o644) -> None:
        """Write a file; a reader in the guest sees the old one or the new one.

        :param mode: its permissions.
        :raise ExecError: it cannot be written, for instance for want of its folder.
        """
        argv = ["sh", "-c", _WRITE, "sh", _absolute(path), f"{mode:o}"]
        self._machine.exec(argv, input=data, check=True)

    def exists(self, path: str) -> bool:
        """True where there is a file or folder; a link counts as what it leads to."""
        return self._machine.exec(["test", "-e", _absolute(path)]).returncode == 0

    def push(self, src: str | Path, dst: str) -> None:
        """Copy a file or folder of the host into the guest, with modes and times.

        `dst` is the copy's own name; missing folders above it are made. A folder
        that exists is added to. The copies belong to root; sockets, fifos and
        devices are left out.

        :raise HostError: `src` cannot be read.
        :raise ExecError: the guest cannot write it.
        """
        source = Path(src)
        target = PurePosixPath(_absolute(dst))
        with naming_errors(source, doing="read", stage="push"):
            is_folder = source.is_dir()
            source.stat()
        folder, arcname = (target, ".") if is_folder else (target.parent, target.name)
        with self._tar(_UNPACK, str(folder)) as (stdin, _):
            # A tar that reads no more has its reasons, which its exit code and words tell.
            with contextlib.suppress(OSError):
                for piece in archive(source.resolve(), arcname, skip_special=True):
                    stdin.write(piece)
            with contextlib.suppress(OSError):
                stdin.close()

    def pull(
        self,
        src: str,
        dst: str | Path,
        *,
        max_bytes: int = PULL_LIMIT_BYTES,
        max_entries: int = PULL_LIMIT_ENTRIES,
    ) -> None:
        """Copy a file or folder of the guest to the host, with modes and times.

        `dst` is the copy's own name. A file replaces a file; a folder must not
        exist yet. All or nothing: what comes is gathered beside `dst` first.

        Safe against a hostile guest: names cannot lead out of `dst`, nor can
        symbolic links; devices are refused; set-user-ID bits and write
        permission for others are dropped; amounts are bounded, and so is memory.

        :raise ExecError: the guest cannot read it.
        :raise ProtocolError: what came is unsafe, damaged or too much.
        :raise HostError: it cannot be written, or the folder exists.
        """
        path = _absolute(src)
        target = Path(dst).absolute()
        make_folder(target.parent)
        is_folder = self._machine.exec(["test", "-d", path]).returncode == 0
        if is_folder and os.path.lexists(target):
            raise UsageError(
                f"{target} exists", stage="pull", fix="choose a folder that does not exist yet"
            )
        policy = Policy(
            max_bytes=max_bytes,
            max_entries=max_entries,
            mode_mask=0o755,
            owner_access=True,
            replace=False,
        )
        whole = PurePosixPath(path)
        script, name = (_PACK_FOLDER, ".") if is_folder else (_PACK_FILE, whole.name)
        words = (path,) if is_folder else (str(whole.parent), name)
        with temporary_folder(target.parent, prefix=".pull-") as made:
            unpacker = Unpacker(name, made / "copy", policy)
            with self._tar(script, *words) as (_, stdout):
                unpacker.unpack(stdout)
            if unpacker.kind != ("folder" if is_folder else "file"):
                raise ProtocolError(f"the guest sent a {unpacker.kind} for {path}", stage="pull")
            unpacker.commit()
            if is_folder:
                if not move_folder(made / "copy", target):
                    raise UsageError(f"{target} exists", stage="pull")
                return
            with naming_errors(target, doing="write", stage="pull"):
                (made / "copy").replace(target)

    @contextmanager
    def _tar(self, script: str, *arguments: str) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """A script of the guest; its stdin and stdout.

        :raise ExecError: it failed.
        """
        argv = ("sh", "-c", script, "sh", *arguments)
        with self._machine._popen(argv, keep_stderr_bytes=_KEEP_STDERR_BYTES) as process:  # noqa: SLF001 - the same package
            error: ProtocolError | None = None
            try:
                yield process.stdin, process.stdout
            except ProtocolError as exc:
                # Half an archive is most often that of a tar that failed.
                error = exc
            try:
                code = process.wait(None if error is None else _LAST_WORDS_S)
            except TimedOut:
                code = 0
            done = CompletedExec(("tar", *arguments), code, b"", process.complaints)
            done.check_returncode()
            if error is not None:
                raise error


def _absolute(path: str) -> str:
    """The path itself, if it is absolute.

    :raise UsageError: it is not.
    """
    if not path.startswith("/"):
        raise UsageError(f"{path!r} is no absolute path of the guest", stage="files")
    return path

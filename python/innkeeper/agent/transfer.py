# SPDX-License-Identifier: Apache-2.0
"""Files to and from a guest, as a stream of tar through a session of its shell.

Nothing is kept: the archive is made as the guest takes it, and unpacked as it
comes. A single file has a temporary name, on both sides, until it is whole.
"""

from __future__ import annotations

import contextlib
import io
import os
import posixpath
import stat
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from innkeeper.agent.loop import Session
from innkeeper.agent.surroundings import OnWatch, Surroundings, Watch
from innkeeper.agent.text import clean_text
from innkeeper.agent.unpack import Unpacker
from innkeeper.agent.vsh import SessionProtocol
from innkeeper.errors import GuestError, HostError, InnError, UsageError
from innkeeper.model.machine import Command
from innkeeper.system.files import file_error
from innkeeper.system.pump import InputStream, OutputStream, Sink, Source, StreamSocket
from innkeeper.system.sockets import stream_pair

_STAGE = "cp"
_CHUNK_BYTES = 256 << 10
_COMPLAINT_BYTES = 8192
_BLOCK = tarfile.BLOCKSIZE

# Exit codes of the scripts below; tar itself ends with 1 or 2.
_MISSING, _NO_TAR, _IN_THE_WAY, _IS_FOLDER = 64, 65, 66, 67
_NEED_TAR = f"command -v tar >/dev/null 2>&1 || exit {_NO_TAR}\n"
_NEED_SOURCE = f'[ -e "$1/$2" ] || [ -L "$1/$2" ] || exit {_MISSING}\n'
_KIND = """if [ -d "$1" ]; then echo folder
elif [ -e "$1" ] || [ -L "$1" ]; then echo file
elif [ -d "$2" ]; then echo free
else echo nowhere; fi"""
_TEMPORARY = f"""[ -d "$1/$2" ] && exit {_IN_THE_WAY}
t="$1/$3"
mkdir -m 700 "$t" || exit 1
trap 'rm -rf "$t"' EXIT
trap 'exit 1' HUP INT TERM
"""
_RENAME = ' && mv -f "$t/$2" "$1/$2"'
_PUT_FOLDER = _NEED_TAR + 'exec tar -xf - -C "$1"'
_PUT_FILE = _NEED_TAR + _TEMPORARY + 'tar -xf - -C "$t"' + _RENAME
_PUT_STREAM = _TEMPORARY + 'cat > "$t/$2"' + _RENAME
_GET = _NEED_TAR + _NEED_SOURCE + 'exec tar -cf - -C "$1" -- "$2"'
_GET_STREAM = _NEED_SOURCE + f'[ -d "$1/$2" ] && exit {_IS_FOLDER}\nexec cat -- "$1/$2"'


@dataclass(frozen=True)
class Peer:
    """The guest at the other end.

    :ivar connect: makes a new connection to its shell's port.
    :ivar on_progress: called with the bytes moved so far.
    """

    name: str
    connect: Callable[[], StreamSocket]
    watch_fd: int
    on_watch: OnWatch
    on_progress: Callable[[int], None]


def push(peer: Peer, source: str, target: str) -> None:
    """Copy a file or folder of the host into the guest; "-" is our stdin.

    :raise UsageError: the source is missing, or does not fit the target.
    :raise GuestError: the guest cannot take it, or is lost.
    """
    path = Path(source)
    contents = source.endswith("/.")
    from_stdin = source == "-"
    is_folder = not from_stdin and path.is_dir() and (contents or not path.is_symlink())
    if not from_stdin and not path.exists() and not path.is_symlink():
        raise UsageError(f"there is no {source} on the host", stage=_STAGE)
    own_name = "" if from_stdin else path.absolute().name or path.resolve().name
    folder, name = _place(peer, target, own_name, is_folder=is_folder, contents=contents)
    if is_folder:
        chunks = _Counted(_Chunks(archive(path, name)), peer.on_progress)
        _run(peer, _PUT_FOLDER, (folder, name), stdin=chunks)
        return
    temporary = f".inn-cp-{os.urandom(6).hex()}"
    place = (folder, name, temporary)
    stdin = InputStream(0) if from_stdin else None
    try:
        given: Source = stdin or _Chunks(archive(path, name))
        script = _PUT_STREAM if from_stdin else _PUT_FILE
        _run(peer, script, place, stdin=_Counted(given, peer.on_progress))
    except BaseException:
        # The session was killed with its script, which could not clean up.
        with contextlib.suppress(InnError):
            _run(peer, 'rm -rf "$1/$2"', (folder, temporary))
        raise
    finally:
        if stdin is not None:
            stdin.close()


def _place(
    peer: Peer, target: str, own_name: str, *, is_folder: bool, contents: bool
) -> tuple[str, str]:
    """The guest's folder, and the name in it, for what is copied to `target`."""
    as_folder = target.endswith("/") or not target
    path = _absolute(target)
    parent, name = posixpath.split(path)
    answer = _Kept()
    _run(peer, _KIND, (path, parent), stdout=answer)
    kind = answer.data.decode("ascii", "replace").strip()
    if kind == "folder" and not contents:
        if not own_name:
            raise UsageError("stdin needs the name of a file in the guest", stage=_STAGE)
        return path, own_name
    if kind == "nowhere" or (as_folder and not is_folder):
        missing = parent if kind == "nowhere" else path
        raise UsageError(f"there is no folder {missing} in {peer.name!r}", stage=_STAGE)
    if is_folder and kind == "file":
        raise UsageError(f"{path} in {peer.name!r} is no folder", stage=_STAGE)
    return parent, name


def pull(peer: Peer, source: str, target: str) -> None:
    """Copy a file or folder of the guest to the host; "-" is our stdout.

    :raise UsageError: the source is missing, or does not fit the target.
    :raise ProtocolError: the guest sent what it must not.
    :raise InnError: the guest or the host failed.
    """
    folder, name = posixpath.split(_absolute(source))
    if not name:
        raise UsageError("copy folders of the guest, not all of it", stage=_STAGE)
    if target == "-":
        stdout = _CountedOutput(1, name="stdout", report=peer.on_progress)
        try:
            _run(peer, _GET_STREAM, (folder, name), stdout=stdout)
        finally:
            stdout.close()
        return
    path = Path(target)
    root = path
    if path.is_dir() and not source.endswith("/."):
        root = path / name
    elif not path.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {path.absolute().parent}", stage=_STAGE)
    elif target.endswith("/") and not path.is_dir():
        kind = _Kept()
        _run(peer, _KIND, (posixpath.join(folder, name), folder), stdout=kind)
        if bytes(kind.data).strip() != b"folder":
            raise UsageError(f"there is no folder {target}", stage=_STAGE)
    if root.is_dir() and root is path and not source.endswith("/."):
        raise UsageError(f"{root} is a folder", stage=_STAGE)
    _pull_archive(peer, (folder, name), Unpacker(name, root.absolute()))


def _absolute(path: str) -> str:
    """The guest's path, from its root on; POSIX would keep two slashes."""
    return posixpath.normpath("/" + path.lstrip("/"))


def _pull_archive(peer: Peer, place: tuple[str, str], unpacker: Unpacker) -> None:
    ours, theirs = stream_pair()
    failures: list[BaseException] = []

    def unpack() -> None:
        with theirs, theirs.makefile("rb") as stream:
            try:
                unpacker.unpack(stream)
            except BaseException as exc:  # noqa: BLE001 - raised again by the thread that waits
                # Before the stream closes: who writes to it then looks for the reason here.
                failures.append(exc)

    thread = threading.Thread(target=unpack, name="unpack")
    stdout = _CountedOutput(ours.fileno(), name="the archive", report=peer.on_progress)
    thread.start()
    try:
        try:
            _run(peer, _GET, place, stdout=stdout, broken=failures)
        finally:
            stdout.close()
            ours.close()
            thread.join()
        if failures:
            raise failures[0]
        unpacker.commit()
    finally:
        unpacker.discard()


def archive(source: Path, name: str, *, skip_special: bool = False) -> Iterator[bytes]:
    """A tar archive of a file or folder under another name, piece by piece.

    In GNU's format, whose long names busybox understands. All belongs to root.

    :param skip_special: leave out fifos and devices, as sockets are in any case.
    :raise InnError: something cannot be read, or changes meanwhile.
    """
    with tarfile.TarFile(fileobj=io.BytesIO(), mode="w", format=tarfile.GNU_FORMAT) as headers:
        todo = [(source, name)]
        while todo:
            path, called = todo.pop()
            try:
                if path.is_socket():
                    continue
                info = headers.gettarinfo(path, called)
                info.uid = info.gid = 0
                info.uname = info.gname = ""
                if not (info.isreg() or info.isdir() or info.issym() or info.islnk()):
                    if skip_special:
                        continue
                    raise UsageError(f"{path} is neither file, folder nor link", stage=_STAGE)
                yield info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
                if info.isreg():
                    yield from _content(path, info.size)
                elif info.isdir():
                    inside = sorted(path.iterdir(), reverse=True)
                    todo += [(entry, f"{called}/{entry.name}") for entry in inside]
            except OSError as exc:
                raise file_error(exc, path, doing="read", stage=_STAGE) from exc
    yield bytes(2 * _BLOCK)


def _content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    with path.open("rb", buffering=0) as file:
        if not stat.S_ISREG(path.stat().st_mode):
            raise HostError(f"{path} changed while it was read", stage=_STAGE)
        while left:
            data = file.read(min(left, _CHUNK_BYTES))
            if not data:
                raise HostError(f"{path} became shorter while it was read", stage=_STAGE)
            left -= len(data)
            yield data
    if size % _BLOCK:
        yield bytes(_BLOCK - size % _BLOCK)


def _run(
    peer: Peer,
    script: str,
    arguments: tuple[str, ...],
    *,
    stdin: Source | None = None,
    stdout: Sink | None = None,
    broken: list[BaseException] | None = None,
) -> None:
    """Run a script in the guest.

    :param broken: what made our own reader of stdout go away.
    :raise InnError: it failed, with what it said as evidence.
    """
    complaints = _Kept()
    command = Command(argv=("sh", "-c", script, "sh", *arguments), workdir="/")
    with peer.connect() as sock:
        session = Session(
            sock,
            SessionProtocol(command),
            command,
            stdin=stdin or _Chunks(iter(())),
            stdout=stdout or _Kept(),
            stderr=complaints,
            around=Surroundings(watch=Watch(peer.watch_fd, peer.on_watch)),
        )
        code = session.run()
    if broken:
        return
    if code == 141 and stdout is not None:
        raise BrokenPipeError
    if code:
        raise _explain(peer, code, posixpath.join(*arguments[:2]), complaints.lines())


def _explain(peer: Peer, code: int, path: str, said: tuple[str, ...]) -> InnError:
    where = f"in {peer.name!r}"
    if code == _MISSING:
        return UsageError(f"there is no {path} {where}", stage=_STAGE)
    if code == _NO_TAR:
        return GuestError(
            f"there is no tar {where}", stage=_STAGE, fix="install it there, or copy with `-`"
        )
    if code == _IN_THE_WAY:
        return UsageError(f"the folder {path} {where} is in the way", stage=_STAGE)
    if code == _IS_FOLDER:
        return UsageError(f"{path} {where} is a folder", stage=_STAGE)
    if any("No space left" in line for line in said):
        return GuestError(f"no space left for {path} {where}", stage=_STAGE, evidence=said)
    return GuestError(f"cannot copy {path} {where}", stage=_STAGE, evidence=said)


class _Chunks:
    """An iterator as a source."""

    fd = -1

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def read(self) -> bytes | None:
        return next(self._chunks, b"")


class _Counted:
    """A source whose bytes are counted."""

    def __init__(self, source: Source, report: Callable[[int], None]) -> None:
        self.fd = source.fd
        self._source = source
        self._report = report
        self._count = 0

    def read(self) -> bytes | None:
        data = self._source.read()
        self._count += len(data or b"")
        self._report(self._count)
        return data


class _CountedOutput(OutputStream):
    """Output whose bytes are counted."""

    def __init__(self, fd: int, *, name: str, report: Callable[[int], None]) -> None:
        super().__init__(fd, name=name)
        self._report = report
        self._count = 0

    def put(self, data: bytes) -> None:
        super().put(data)
        self._count += len(data)
        self._report(self._count)


class _Kept:
    """A sink that keeps the first bytes."""

    fd = -1
    pending = 0

    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, data: bytes) -> None:
        self.data += data[: _COMPLAINT_BYTES - len(self.data)]

    def flush(self, *, polled: bool) -> None:
        pass

    def lines(self) -> tuple[str, ...]:
        """The last lines, safe to print."""
        text = bytes(self.data).decode("utf-8", "replace")
        return tuple(clean_text(line) for line in text.splitlines()[-8:])

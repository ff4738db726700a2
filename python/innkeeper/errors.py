# SPDX-License-Identifier: Apache-2.0
"""The error tree. Libraries raise these; only `cli` prints them.

::

    InnError                    brief, stage, evidence, fix, exit_code      125
    ├── UsageError              the command line or a file asks nonsense      2
    │   └── UnknownName         an unknown option value, image or key         2
    ├── HostError               this host lacks something                   125
    │   ├── MissingProgram      a program is not installed                  125
    │   ├── HostTooOld          a program is there but too old              125
    │   ├── OutOfSpace          disk full while writing                     125
    │   ├── OutOfMemory         not enough memory for the guest             125
    │   └── PathTooLong         a Unix socket path over 107 bytes           125
    ├── ImageError              an image or kernel cannot be used           125
    ├── DiskError               a disk cannot be used                       125
    ├── NameInUse               another guest has this name                 125
    ├── GuestError              the guest failed                            125
    │   ├── BootFailed          it ended or panicked before it was ready    125
    │   ├── GuestLost           it ended under a running command            125
    │   ├── CallFailed          its kernel refused a control call           125
    │   └── KeeperLost          its keeper died                             125
    ├── CommandNotFound         the guest has no such command               127
    ├── CommandNotExecutable    the guest's command cannot be executed      126
    ├── TimedOut                a time limit passed                         124
    └── ProtocolError           a peer sent something it must not           125

The exit code of the guest's own command is a result, not an error.
"""

from __future__ import annotations

EXIT_USAGE = 2
EXIT_TIMEOUT = 124
EXIT_FAILURE = 125
EXIT_NOT_EXECUTABLE = 126
EXIT_NOT_FOUND = 127


class InnError(Exception):
    """What failed, at which stage, with what evidence, and what to do.

    :ivar brief: one sentence without a full stop, naming the thing.
    :ivar stage: the stage of the work ("plan", "image", "qemu", "boot", ...).
    :ivar evidence: lines that show it, such as the end of the console.
    :ivar fix: what the user can do, as a sentence or a command.
    """

    exit_code = EXIT_FAILURE

    def __init__(
        self,
        brief: str,
        *,
        stage: str = "",
        evidence: tuple[str, ...] = (),
        fix: str = "",
    ) -> None:
        super().__init__(brief)
        self.brief = brief
        self.stage = stage
        self.evidence = evidence
        self.fix = fix

    def as_dict(self) -> dict[str, object]:
        """The error for JSON output and for the keeper's control channel."""
        return {
            "kind": type(self).__name__,
            "brief": self.brief,
            "stage": self.stage,
            "evidence": list(self.evidence),
            "fix": self.fix,
            "exit_code": self.exit_code,
        }


class UsageError(InnError):
    """The command line or a file asks for something that makes no sense."""

    exit_code = EXIT_USAGE


class UnknownName(UsageError):
    """A name that is none of the known ones; the fix names the nearest."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...], *, stage: str = "") -> None:
        import difflib

        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        choices = ", ".join(known) if known else "none"
        super().__init__(f"unknown {kind} {name!r}", stage=stage, fix=f"{hint}known: {choices}")
        self.kind = kind
        self.name = name
        self.known = known

    def __reduce__(self) -> tuple[type[UnknownName], tuple[str, str, tuple[str, ...]]]:
        return (UnknownName, (self.kind, self.name, self.known))


class HostError(InnError):
    """This host lacks something that the work needs."""


class MissingProgram(HostError):
    """A program is not installed."""


class HostTooOld(HostError):
    """A program is installed, but lacks what is needed."""


class OutOfSpace(HostError):
    """A file system filled up while writing."""


class OutOfMemory(HostError):
    """The host or the guest has too little memory."""


class PathTooLong(HostError):
    """A Unix socket path over 107 bytes (`sun_path`, unix(7))."""


class ImageError(InnError):
    """An image, kernel or initramfs cannot be used."""


class DiskError(InnError):
    """A disk, or a file that is to become one, cannot be used."""


class NameInUse(InnError):
    """Another running guest holds this name."""


class GuestError(InnError):
    """The guest failed."""


class BootFailed(GuestError):
    """The guest ended, panicked or lost its agent before it was ready."""


class GuestLost(GuestError):
    """The guest ended while a command was running in it."""


class CallFailed(GuestError):
    """The guest's kernel refused what its agent was asked to do.

    :ivar number: its errno; 0 where the error came from another process.
    """

    number = 0


class KeeperLost(GuestError):
    """The keeper of the guest died."""


class CommandNotFound(InnError):
    """The guest has no such command."""

    exit_code = EXIT_NOT_FOUND


class CommandNotExecutable(InnError):
    """The guest has the command but cannot execute it."""

    exit_code = EXIT_NOT_EXECUTABLE


class TimedOut(InnError):
    """A time limit passed."""

    exit_code = EXIT_TIMEOUT


class ProtocolError(InnError):
    """A peer sent something that it must not send."""


def error_from_dict(value: dict[str, object]) -> InnError:
    """The reverse of :meth:`InnError.as_dict`, for the other end of a channel.

    An unknown kind becomes a plain `InnError`; nothing here raises.
    """
    kinds = {cls.__name__: cls for cls in _tree(InnError)}
    cls = kinds.get(str(value.get("kind")), InnError)
    evidence = value.get("evidence")
    # UnknownName has its own constructor; its text survives as a UsageError.
    make = UsageError if cls is UnknownName else cls
    return make(
        str(value.get("brief", "unknown failure")),
        stage=str(value.get("stage", "")),
        evidence=tuple(str(line) for line in evidence) if isinstance(evidence, list) else (),
        fix=str(value.get("fix", "")),
    )


def _tree(cls: type[InnError]) -> list[type[InnError]]:
    found = [cls]
    for sub in cls.__subclasses__():
        found.extend(_tree(sub))
    return found

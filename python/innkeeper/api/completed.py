# SPDX-License-Identifier: Apache-2.0
"""What a command in a guest left behind, and the error for one that failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, AnyStr, Generic

from innkeeper.errors import InnError

_EVIDENCE_LINES = 8
_EVIDENCE_WIDTH = 400


@dataclass(frozen=True)
class CompletedExec(Generic[AnyStr]):
    """A command that ended, as :class:`subprocess.CompletedProcess`.

    :ivar args: its argv.
    :ivar returncode: its own exit code, 128+N when signal N ended it.
    :ivar truncated: it wrote more than was kept.
    """

    args: tuple[str, ...]
    returncode: int
    stdout: AnyStr
    stderr: AnyStr
    truncated: bool = False

    def as_text(self) -> CompletedExec[str]:
        """The same with outputs decoded as UTF-8; what is none becomes U+FFFD."""
        return CompletedExec(
            self.args, self.returncode, _text(self.stdout), _text(self.stderr), self.truncated
        )

    def check_returncode(self) -> None:
        """Nothing, if the command succeeded.

        :raise ExecError: its exit code is not 0.
        """
        if self.returncode != 0:
            raise ExecError(
                f"the guest's command {self.args[0] if self.args else 'sh'!r} "
                f"ended with exit code {self.returncode}",
                stage="exec",
                evidence=_last_lines(self.stderr),
                completed=self,
            )


class ExecError(InnError):
    """A command in a guest failed, and success was asked for (`check=True`).

    :ivar argv: its arguments.
    :ivar returncode: its exit code; also `exit_code`.
    :ivar stdout: what it wrote, as was asked for: bytes or text.
    :ivar stderr: the same of stderr.
    """

    def __init__(
        self,
        brief: str,
        *,
        stage: str = "",
        evidence: tuple[str, ...] = (),
        fix: str = "",
        completed: CompletedExec[Any] | None = None,
    ) -> None:
        super().__init__(brief, stage=stage, evidence=evidence, fix=fix)
        done: CompletedExec[Any] = completed or CompletedExec((), self.exit_code, b"", b"")
        self.completed = done
        self.argv = done.args
        self.returncode = done.returncode
        self.stdout = done.stdout
        self.stderr = done.stderr
        self.exit_code = done.returncode

    def __str__(self) -> str:
        """The sentence, and what the command complained of."""
        return "\n  ".join((self.brief, *self.evidence))


def _text(data: str | bytes) -> str:
    return data if isinstance(data, str) else data.decode("utf-8", "replace")


def _last_lines(stderr: str | bytes) -> tuple[str, ...]:
    lines = _text(stderr).strip().splitlines()[-_EVIDENCE_LINES:]
    return tuple("".join(c if c.isprintable() else "?" for c in x[:_EVIDENCE_WIDTH]) for x in lines)

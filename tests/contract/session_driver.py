# SPDX-License-Identifier: Apache-2.0
"""Runs one session over this process's own stdio, as `inn` would.

`python session_driver.py SOCKET JSON`; the JSON object has `argv` and perhaps
`env`, `workdir`, `tty`, `timeout_s`; with `attach`, the id of a kept session,
it attaches to that one; with `kept`, the session outlives this process.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

from innkeeper.agent.attach import attach_kept, run_kept
from innkeeper.agent.session import Stdio, run_session
from innkeeper.agent.vsh import Started
from innkeeper.errors import InnError
from innkeeper.model.machine import Command
from innkeeper.system.descriptors import occupy_standard_descriptors
from innkeeper.system.sockets import connect_unix


def tell_dropped(started: Started) -> None:
    sys.stderr.write(f"dropped {started.dropped_bytes}\n")


def kept(sock: socket.socket, options: dict[str, Any], command: Command) -> int:
    nobody, _ours = socket.socketpair()
    watched: Any = {"keys": b"\x1dd", "watch_fd": nobody.fileno(), "on_watch": lambda: None}
    if options.get("kept"):
        outcome = run_kept(sock, command, Stdio(), **watched)
    else:
        outcome = attach_kept(
            sock,
            options["attach"],
            Stdio(),
            reads_stdin=options.get("reads_stdin", True),
            on_started=tell_dropped,
            **watched,
        )
    sys.stderr.write(f"left {outcome.session_id}\n" if outcome.runs_on else "over\n")
    return outcome.code


def main() -> int:
    occupy_standard_descriptors()
    options: dict[str, Any] = json.loads(sys.argv[2])
    timeout_s = options.get("timeout_s")
    command = Command(
        argv=tuple(options["argv"]),
        env=options.get("env", {}),
        workdir=options.get("workdir"),
        workdir_of=options.get("workdir_of"),
    )
    try:
        with connect_unix(Path(sys.argv[1]), timeout_s=10) as sock:
            if "attach" in options or options.get("kept"):
                return kept(sock, options, command)
            return run_session(
                sock,
                command,
                Stdio(),
                tty=options.get("tty", False),
                deadline=None if timeout_s is None else time.monotonic() + timeout_s,
                timeout_s=timeout_s,
            )
    except InnError as error:
        sys.stderr.write(f"{type(error).__name__}: {error.brief}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

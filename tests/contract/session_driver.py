# SPDX-License-Identifier: Apache-2.0
"""Runs one session over this process's own stdio, as `inn` would.

`python session_driver.py SOCKET JSON`; the JSON object has `argv` and perhaps
`env`, `workdir`, `tty`, `timeout_s`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from innkeeper.agent.session import Stdio, run_session
from innkeeper.errors import InnError
from innkeeper.model.machine import Command
from innkeeper.system.descriptors import occupy_standard_descriptors
from innkeeper.system.sockets import connect_unix


def main() -> int:
    occupy_standard_descriptors()
    options: dict[str, Any] = json.loads(sys.argv[2])
    timeout_s = options.get("timeout_s")
    command = Command(
        argv=tuple(options["argv"]), env=options.get("env", {}), workdir=options.get("workdir")
    )
    try:
        with connect_unix(Path(sys.argv[1]), timeout_s=10) as sock:
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

# SPDX-License-Identifier: Apache-2.0
"""The entry point of `inn`. `--version` answers before anything else is imported."""

from __future__ import annotations

import os
import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # Ctrl-C while modules are imported ends us as it ends other programs,
        # without a traceback; work that must be undone sets its own handler.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.argv[1:] in (["--version"], ["-V"]):
        from innkeeper._version import __version__

        sys.stdout.write(f"inn {__version__}\n")
        return
    from innkeeper.system.descriptors import occupy_standard_descriptors

    occupy_standard_descriptors()
    code = _run(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # The interpreter's own end would take 10 ms more and do nothing.
    os._exit(code)


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["run"]:
        from innkeeper.cli.early import starts_guest

        if starts_guest(arguments[1:]):
            # Its keeper loads its modules while we load ours.
            from innkeeper.keeper.launch import drop_early, launch_early

            launch_early()
            try:
                from innkeeper.cli.main import run_cli

                return run_cli(arguments)
            finally:
                drop_early()
    from innkeeper.cli.main import run_cli

    return run_cli(arguments)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The entry point of `inn`. `--version` answers before anything else is imported."""

from __future__ import annotations

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
    from innkeeper.cli.main import run_cli
    from innkeeper.system.descriptors import occupy_standard_descriptors

    occupy_standard_descriptors()
    sys.exit(run_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()

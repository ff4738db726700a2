# SPDX-License-Identifier: Apache-2.0
"""The entry point of `inn`. `--version` answers before anything else is imported."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit with its code."""
    if sys.argv[1:] in (["--version"], ["-V"]):
        from innkeeper._version import __version__

        sys.stdout.write(f"inn {__version__}\n")
        return
    from innkeeper.cli.main import run_cli

    sys.exit(run_cli(sys.argv[1:]))


if __name__ == "__main__":
    main()

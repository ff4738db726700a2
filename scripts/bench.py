# SPDX-License-Identifier: Apache-2.0
"""Time cold starts: `inn run -- true`, from the command to its exit code.

    python scripts/bench.py [COUNT]

The first start is told apart, because it may build the image.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

INN = Path(sys.executable).parent / "inn"


def start_s() -> float:
    """Seconds for one guest; raises when it fails."""
    begin = time.monotonic()
    subprocess.run([INN, "run", "--", "true"], check=True, stdin=subprocess.DEVNULL)
    return time.monotonic() - begin


def main() -> None:
    """Print the first start, then the spread of the others."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    print(f"bench: first start {start_s():.2f} s")
    times = sorted(start_s() for _ in range(count))
    print(
        f"bench: {count} more: median {statistics.median(times):.2f} s,"
        f" fastest {times[0]:.2f} s, slowest {times[-1]:.2f} s"
    )


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Will `inn run` with these arguments start a guest? Told before click is there to parse them.

Its keeper is launched at once, and loads while we do. For `--help` or a
mistyped option that would be a process for nothing. What a value says is not
looked at: a guest of "lots" of memory ends its keeper unused.
"""

from __future__ import annotations

from collections.abc import Sequence

# The options of `inn run`: a test compares them with what click knows.
FLAGS = frozenset({"--notify", "--timings", "--tty", "--no-tty"})
_VALUED = """
    --accel --append --cid --console --cpus -c --disk --env -e --firmware --flavour --format --forward
    --image --initrd --kernel --memory -m --name -n --network --oem-string --publish -p
    --qemu-arg --root --root-device --root-overlay --rw --share -v --share-cache
    --share-transport --timeout -t --timezone
    --user -u --wait --workdir -w
"""
VALUED = frozenset(_VALUED.split())


def starts_guest(arguments: Sequence[str]) -> bool:
    """Whether the words after `inn run` are known options with their values, then a command."""
    words = iter(arguments)
    for word in words:
        if not word.startswith("-") or word in ("-", "--"):
            return True
        if word.startswith("--"):
            name, equals, _ = word.partition("=")
            if name in FLAGS and not equals:
                continue
            if name not in VALUED or (not equals and next(words, None) is None):
                return False
            continue
        # As getopt(3): the value may follow its letter at once.
        if word[:2] not in VALUED or (len(word) == 2 and next(words, None) is None):
            return False
    return True

# SPDX-License-Identifier: Apache-2.0
"""Send lines through a command of a guest, one at a time, while it runs."""

import innkeeper

SCRIPT = 'while read -r line; do echo "guest: $line"; done'

with innkeeper.Machine.run("tiny") as vm, vm.popen(["sh", "-c", SCRIPT]) as echo:
    for word in (b"one", b"two", b"three"):
        echo.stdin.write(word + b"\n")
        echo.stdin.flush()
        print(echo.stdout.readline().decode(), end="")

# SPDX-License-Identifier: Apache-2.0
"""Start a guest, run a command in it, and leave nothing behind."""

import innkeeper

with innkeeper.Machine.run("tiny") as vm:
    print(vm.exec(["uname", "-r"], check=True, text=True).stdout, end="")

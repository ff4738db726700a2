# SPDX-License-Identifier: Apache-2.0
"""Reach a web server in a guest that has no network."""

from urllib.request import urlopen

import innkeeper

with innkeeper.Machine.run("tiny") as vm:
    vm.files.write("/index.html", "served by the guest\n")
    vm.exec(["httpd", "-h", "/", "-p", "127.0.0.1:8080"], check=True)
    with vm.forward(8080) as web, urlopen(f"http://127.0.0.1:{web.port}/") as page:
        print(page.read().decode(), end="")

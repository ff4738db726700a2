# SPDX-License-Identifier: Apache-2.0
"""What `inn inspect` tells of a running guest, as its host and the guest itself see it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from guests import Inn, record

# Prints the guest's own CID: IOCTL_VM_SOCKETS_GET_LOCAL_CID of linux/vm_sockets.h.
ASK = r"""
#include <fcntl.h>
#include <stdio.h>
#include <sys/ioctl.h>
int main(void) {
    unsigned cid = 0;
    int fd = open("/dev/vsock", O_RDONLY);
    if (fd < 0 || ioctl(fd, 0x7b9, &cid) != 0) return 1;
    printf("%u\n", cid);
    return 0;
}
"""


def test_address_processes_and_cid_are_those_of_the_guest(inn: Inn, tmp_path: Path) -> None:
    program = tmp_path / "ask"
    argv = ["gcc", "-static", "-Os", "-s", "-x", "c", "-o", str(program), "-"]
    subprocess.run(argv, input=ASK.encode(), check=True)
    assert inn("create", "seen", "--network", "user").code == 0
    try:
        assert inn("start", "seen").code == 0
        told = record(inn, "seen")
        keeper, qemu = (Path(f"/proc/{told[f'{name}_pid']}") for name in ("keeper", "qemu"))
        assert b"innkeeper.keeper" in (keeper / "cmdline").read_bytes()
        assert b"qemu-system-x86_64" in (qemu / "cmdline").read_bytes().split(b"\0")[0]
        parent = (qemu / "stat").read_text().rpartition(") ")[2].split()[1]
        assert parent == keeper.name
        cid = inn(
            *("exec", "seen", "--", "sh", "-c", "cat > /tmp/ask; chmod +x /tmp/ask; /tmp/ask"),
            stdin=program.read_bytes(),
        )
        assert (cid.code, cid.stdout.decode()) == (0, f"{told['guest_cid']}\n"), cid.error
        network = told["network"]
        shown = inn("exec", "seen", "--", "ip", "addr", "show", "eth0").stdout.decode()
        assert f"inet {network['address']}/" in shown
        assert f"link/ether {network['mac']} " in shown
    finally:
        inn("rm", "-f", "seen")
    assert not qemu.exists()

# SPDX-License-Identifier: Apache-2.0
"""Answer a guest's questions over rings: whole messages, each with its true sender."""

import innkeeper

with innkeeper.Machine.run("tiny", memory="256M") as vm, vm.rings() as rings:
    guest = vm.record.guest_cid or 0  # its domain; this program's is 0
    rings.register(80, guest)
    receive = ["inn-guest", "rings", "receive", "--from", "host", "--count", "1", "81"]
    with vm.popen(receive) as reader:
        reader.stderr.readline()  # says that the guest's ring is there
        vm.exec(["inn-guest", "rings", "send", "host:80", "what is it?"], check=True)
        for question in rings.messages(80, guest, timeout_s=30):
            print("from the guest:", question.sender.domain == guest, question.data.decode())
            rings.send(80, (guest, 81), b"tea")
            break
        print("in the guest:", reader.stdout.readline().decode(), end="")

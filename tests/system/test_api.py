# SPDX-License-Identifier: Apache-2.0
"""The Python API with real guests."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from guests import BOOT_LIMIT_S

from innkeeper import AsyncMachine, ExecError, InnError, Machine
from innkeeper.errors import (
    CommandNotFound,
    GuestError,
    GuestLost,
    HostError,
    NameInUse,
    TimedOut,
    UsageError,
)
from innkeeper.testing.plugin import VmFactory


def state(machine: Machine) -> str:
    """Its state, as a text: it changes between two looks at it."""
    return machine.state


def test_commands_of_a_guest() -> None:
    with Machine.run("tiny", name="api", memory="256M") as vm:
        assert state(vm) == "running"
        assert vm.record.guest
        assert vm.timings["start"] > 0
        done = vm.exec(
            ["sh", "-c", "cat; pwd; echo $K; id -u >&2; exit 7"],
            input="in\n",
            env={"K": "v"},
            cwd="/tmp",
            user="1000",
            text=True,
        )
        assert (done.returncode, done.stdout, done.stderr) == (7, "in\n/tmp\nv\n", "1000\n")
        with pytest.raises(ExecError, match="bad"):
            vm.exec(["sh", "-c", "echo bad >&2; exit 3"], check=True)
        with pytest.raises(CommandNotFound):
            vm.exec(["no-such-command"])
        with pytest.raises(TimedOut):
            vm.exec(["sleep", "60"], timeout_s=0.3)
        assert vm.exec(["head", "-c", "100", "/dev/zero"], max_output_bytes=10).truncated
        with pytest.raises(GuestError, match="refused port 4242"):
            vm.connect(4242)
        with pytest.raises(NameInUse):
            Machine.run("tiny", name="api")
        vm.pause()
        assert Machine.get("api").state == "paused"
        vm.resume()
        assert vm.wait_for("agent", timeout_s=10).state == "running"
        assert vm.stop()
        assert state(vm) == "stopped"
        assert not vm.stop()


def test_processes_of_a_guest(vm: Machine) -> None:
    with vm.popen(["cat"]) as cat:
        cat.stdin.write(b"line\n")
        cat.stdin.flush()
        assert cat.stdout.readline() == b"line\n"
        assert vm.exec(["test", "-d", f"/proc/{cat.pid}"]).returncode == 0
    assert cat.returncode == 0
    for end, code in (("terminate", 143), ("kill", 137)):
        with vm.popen(["sleep", "600"]) as sleep:
            getattr(sleep, end)()
            assert sleep.wait(20) == code
    with vm.popen(["sh", "-c", "test -t 0 && stty size"], tty=True) as terminal:
        assert terminal.stdout.read().split() == [b"24", b"80"]
    data = os.urandom(1 << 20)
    with vm.popen(["cat"]) as cat:
        assert cat.communicate(data) == (data, b"")
    # What a closed process leaves in the guest ends there too.
    sleep = vm.popen(["sleep", "601"])
    sleep.close()
    script = "while pgrep -f 'sleep 601' | grep -qv $$; do :; done"
    assert vm.exec(["sh", "-c", script], timeout_s=20).returncode == 0


def test_files_of_a_guest(vm: Machine, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "sub" / "run").write_bytes(os.urandom(300_000))
    (source / "sub" / "run").chmod(0o751)
    (source / ("n" * 200)).write_text("a long name")
    (source / "link").symlink_to("sub/run")
    os.utime(source / "sub" / "run", (1_000_000_000, 1_000_000_000))
    vm.files.write("/tmp/a file", b"data", mode=0o600)
    assert vm.files.read("/tmp/a file") == b"data"
    assert vm.exec(["stat", "-c", "%a", "/tmp/a file"]).stdout == b"600\n"
    assert vm.files.exists("/tmp/a file")
    assert not vm.files.exists("/tmp/none")
    vm.files.push(source, "/root/deep/tree")
    vm.files.pull("/root/deep/tree", tmp_path / "back")
    copy = tmp_path / "back" / "sub" / "run"
    assert copy.read_bytes() == (source / "sub" / "run").read_bytes()
    assert (copy.stat().st_mode & 0o777, copy.stat().st_mtime) == (0o751, 1_000_000_000)
    assert (tmp_path / "back" / "link").readlink() == Path("sub/run")
    assert (tmp_path / "back" / ("n" * 200)).read_text() == "a long name"
    vm.files.push(copy, "/root/one")
    vm.files.pull("/root/one", tmp_path / "one")
    assert (tmp_path / "one").read_bytes() == copy.read_bytes()
    vm.exec(["ln", "-s", "/etc/passwd", "/root/deep/tree/bad"], check=True)
    with pytest.raises(InnError, match="link"):
        vm.files.pull("/root/deep/tree", tmp_path / "again")
    with pytest.raises(ExecError, match="No such file"):
        vm.files.pull("/none", tmp_path / "again")
    with pytest.raises(ExecError):
        vm.files.push(source, "/proc/none")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "one", "source"]


def test_a_panic_is_told_with_its_reason(vm_factory: VmFactory) -> None:
    with vm_factory() as vm:
        process = vm.popen(["sleep", "600"])
        with pytest.raises(GuestLost, match="sysrq triggered crash"):
            vm.exec(["sh", "-c", "echo c > /proc/sysrq-trigger; sleep 60"])
        with pytest.raises(GuestLost, match="sysrq triggered crash"):
            process.wait(10)
        process.close()
        assert state(vm) == "failed"
        assert "panic" in "\n".join(vm.console_tail(400))
        assert any("sysrq" in line.text for line in vm.logs("keeper"))
        with pytest.raises(GuestError, match="has ended"):
            vm.exec(["true"])


def send_all(sock: socket.socket, data: bytes) -> None:
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def test_ports_of_a_guest(vm: Machine) -> None:
    serve = "mkdir -p /www; echo hello > /www/index.html; httpd -h /www -p 127.0.0.1:80"
    vm.exec(["sh", "-c", serve + "; nc -ll -p 7 -e cat >/dev/null 2>&1 &"], check=True)
    data = os.urandom(1 << 20)
    with vm.forward(80) as web, vm.forward(7) as echo:
        for _ in range(2):
            with urlopen(f"http://127.0.0.1:{web.port}/", timeout=30) as page:
                assert page.read() == b"hello\n"
        with socket.create_connection(("127.0.0.1", echo.port), timeout=30) as sock:
            sender = threading.Thread(target=send_all, args=(sock, data))
            sender.start()
            # Our end of file goes in, what was on its way comes out, then the guest's.
            assert b"".join(iter(lambda: sock.recv(1 << 16), b"")) == data
            sender.join()
        with pytest.raises(HostError, match=f"cannot listen on 127.0.0.1:{web.port}"):
            vm.forward(80, web.port)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", web.port), timeout=30)
    with vm.forward(81) as nobody, socket.create_connection(("127.0.0.1", nobody.port)) as sock:
        assert sock.recv(1) == b""
    with pytest.raises(UsageError):
        vm.forward(0)
    vm.exec(["killall", "httpd", "nc"])


def test_logs_of_a_guest(vm: Machine) -> None:
    vm.exec(["logger", "-t", "test", "a message"], check=True)
    followed = vm.logs("guest", follow=True)
    assert next(line for line in followed if "a message" in line.text).source == "guest"
    followed.close()
    assert any("inn-agent: listening" in line.text for line in vm.logs("console"))
    assert {line.source for line in vm.logs()} == {"console", "guest", "keeper"}
    assert next(vm.events(timeout_s=10)).state == "running"


def test_what_the_async_twin_hears(vm: Machine) -> None:
    async def scenario() -> None:
        twin = AsyncMachine(vm)
        async with contextlib.aclosing(twin.events(timeout_s=BOOT_LIMIT_S)) as events:
            assert (await anext(events)).state == "running"
            # Asked for while nothing is to be heard.
            paused = asyncio.ensure_future(anext(events))
            await twin.pause()
            assert (await paused).state == "paused"
            await twin.resume()
            assert (await anext(events)).state == "running"
        with pytest.raises(TimedOut):
            async for _ in twin.events(timeout_s=0.1):
                pass

        lines = aiter(twin.logs("guest", follow=True))
        await twin.exec(["logger", "-t", "test", "first for the twin"], check=True)
        while "first for the twin" not in (await anext(lines)).text:
            pass
        later = asyncio.ensure_future(anext(lines))
        await twin.exec(["logger", "-t", "test", "second for the twin"], check=True)
        assert "second for the twin" in (await later).text
        await lines.aclose()
        assert any("first for the twin" in line.text for line in await twin.logs("guest"))

    asyncio.run(scenario())


@pytest.fixture
def kept() -> Iterator[Machine]:
    machine = Machine.create("kept", memory="256M")
    yield machine
    machine.remove(force=True)


def test_a_machine_that_stays(kept: Machine) -> None:
    assert state(kept) == "created"
    assert kept.start()
    assert not kept.start()
    assert kept.exec(["uname"], text=True).stdout == "Linux\n"
    # The object goes, the guest stays.
    name = kept.name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        other = Machine.get(name)
        del other
        gc.collect()
    assert state(kept) == "running"
    with pytest.raises(NameInUse):
        kept.remove()
    kept.restart()
    assert kept.record.starts == 2
    with pytest.raises(TimedOut):
        kept.wait_for("stopped", timeout_s=0.1)
    assert kept.stop()
    assert kept.wait_for("stopped", timeout_s=10).state == "stopped"


def test_a_detached_guest_stays_until_it_is_ended() -> None:
    with Machine.run("tiny", name="free", memory="256M") as vm:
        vm.detach()
    found = Machine.get("free")
    assert found.exec(["true"]).returncode == 0
    assert found.stop(0)


def test_a_detached_guest_holds_nothing_of_its_starter() -> None:
    program = (
        "import innkeeper\ninnkeeper.Machine.run('tiny', name='alone', memory='256M').detach()\n"
    )
    try:
        # It returns when nobody has the pipes any more.
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")
        assert Machine.get("alone").exec(["true"]).returncode == 0
    finally:
        Machine.get("alone").stop(0)


def test_a_dropped_guest_warns_and_ends(runtime_dir: Path) -> None:
    vm = Machine.run("tiny", name="dropped", memory="256M")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        del vm
        gc.collect()
    assert any("dropped" in str(item.message) for item in caught)
    assert not (runtime_dir / "dropped").exists()


def test_a_guest_from_another_thread() -> None:
    results: list[bytes] = []

    def work() -> None:
        with Machine.run("tiny", memory="256M") as vm:
            results.append(vm.exec(["echo", "from a thread"]).stdout)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert results == [b"from a thread\n"]


def test_async_calls_and_their_cancellation(runtime_dir: Path) -> None:
    async def main() -> None:
        async with AsyncMachine.run("tiny", name="twin", memory="256M") as vm:
            jobs = [vm.exec(["echo", str(n)], text=True) for n in range(20)]
            done = await asyncio.gather(*jobs)
            assert [int(one.stdout) for one in done] == list(range(20))
            since = time.monotonic()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(vm.exec(["sleep", "602"]), 0.3)
            assert time.monotonic() - since < 5
            script = "while pgrep -f 'sleep 602' | grep -qv $$; do :; done"
            assert (await vm.exec(["sh", "-c", script], timeout_s=20)).returncode == 0
            async with await vm.popen(["cat"]) as cat:
                await cat.write(b"hello\n")
                assert await cat.readline() == b"hello\n"
                await cat.close_stdin()
                assert await cat.wait(10) == 0
            serve = "mkdir -p /www; echo hello > /www/index.html; httpd -h /www"
            await vm.exec(["sh", "-c", serve], check=True)
            async with vm.forward(80) as web:
                page = await asyncio.to_thread(urlopen, f"http://127.0.0.1:{web.port}/")
                with page:
                    assert page.read() == b"hello\n"
            await vm.files.write("/tmp/f", "text")
            assert await vm.files.read("/tmp/f") == b"text"
        with pytest.raises(TimeoutError):
            # Far too little for a boot: the start is given up.
            await asyncio.wait_for(_run("cancelled"), 0.3)

    asyncio.run(main())
    assert not (runtime_dir / "cancelled").exists()


async def _run(name: str) -> None:
    async with AsyncMachine.run("tiny", name=name, memory="256M"):
        pytest.fail("it started in no time")


def test_a_forgetful_program_that_forks_leaves_nothing(runtime_dir: Path) -> None:
    program = (
        "import os, sys, innkeeper\n"
        "vm = innkeeper.Machine.run('tiny', name='forgotten', memory='256M')\n"
        "if (child := os.fork()) == 0:\n"
        "    sys.exit(3)\n"
        "print(os.waitpid(child, 0)[1] >> 8, vm.exec(['true']).returncode)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"3 0\n", b"")
    assert not (runtime_dir / "forgotten").exists()

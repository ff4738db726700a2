# SPDX-License-Identifier: Apache-2.0
"""Programs as Debian has them, in two guests without a network: they serve and reach each other."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import threading
from collections.abc import Callable, Iterator

import pytest
from debian_images import BUILD_LIMIT_S
from guests import INN, Inn

pytestmark = [pytest.mark.slow, pytest.mark.timeout(BUILD_LIMIT_S + 180)]

TOPOLOGY = """\
name = "programs"

[machines.there]
image = "argo"
memory = "256M"

[machines.here]
image = "argo"
memory = "256M"

[[policy]]
from = "here"
to = "there"
port = "22,80,5201,6379,7000,8000"
"""
SIZE_BYTES = 2 << 20
_LIFE_LIMIT_S = 100.0

# A server in the guest `there`: the words that tell that it listens, and its command.
Serve = Callable[..., contextlib.AbstractContextManager[None]]


@pytest.fixture(scope="module")
def digest(argo_image: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Both guests run; `/srv/data` is there, random, and this is its SHA-256."""
    file = tmp_path_factory.mktemp("programs") / "programs.toml"
    file.write_text(TOPOLOGY)
    assert argo_image in TOPOLOGY
    try:
        up = subprocess.run([*INN, "up", str(file)], capture_output=True, check=False)
        assert up.returncode == 0, up.stderr.decode()
        make = f"head -c {SIZE_BYTES} /dev/urandom >/srv/data; cd /srv; sha256sum data; ip route"
        made = guest("there", "sh", "-c", make)
        # Its last word would be a route, if there were one.
        assert made[64:] == "  data\n"
        assert guest("here", "ip", "route") == ""
        yield made[:64]
    finally:
        down = [*INN, "down", "programs", "--timeout", "0"]
        done = subprocess.run(down, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def guest(name: str, *command: str, stdin: bytes = b"") -> str:
    """What a command in a guest prints; it succeeds."""
    done = subprocess.run(
        [*INN, "exec", name, "--", *command],
        input=stdin,
        capture_output=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"
    return done.stdout.decode()


def wrapped(name: str, *command: str, stdin: bytes = b"") -> str:
    return guest(name, "inn-guest", "wrap", "--", *command, stdin=stdin)


@contextlib.contextmanager
def serving(ready: bytes, *command: str) -> Iterator[None]:
    """A server in `there`, which listens when this begins, and ends with it.

    :param ready: in the line that it prints once it listens.
    """
    both = 'exec "$@" 2>&1'
    process = subprocess.Popen(
        [*INN, "exec", "there", "--", "sh", "-c", both, "sh", "inn-guest", "wrap", "--", *command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    # Nobody waits for ever for what it does not say.
    watchdog = threading.Timer(_LIFE_LIMIT_S, process.kill)
    watchdog.start()
    assert process.stdout is not None
    try:
        said = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            pytest.fail(f"{command} never listened: {b''.join(said).decode()}")
        yield
    finally:
        watchdog.cancel()
        watchdog.join()
        process.terminate()
        process.communicate()


def test_sshd_and_ssh(digest: str) -> None:
    keys = (
        "mkdir -p /run/sshd ~/.ssh; ssh-keygen -qt ed25519 -N '' -f /etc/ssh/ssh_host_ed25519_key; "
    )
    host_key = guest("there", "sh", "-c", keys + "cat /etc/ssh/*.pub")
    own = "ssh-keygen -qt ed25519 -N '' -f ~/.ssh/id_ed25519; cat >~/.ssh/known_hosts; cat ~/.ssh/*.pub"
    key = guest("here", "sh", "-c", own, stdin=f"there.inn {host_key}".encode())
    guest("there", "sh", "-c", "cat >~/.ssh/authorized_keys", stdin=key.encode())
    with serving(b"Server listening on", "/usr/sbin/sshd", "-De"):
        ssh = ("ssh", "root@there.inn")
        sums = wrapped("here", "sh", "-c", f"{' '.join(ssh)} cat /srv/data | sha256sum")
        assert sums == f"{digest}  -\n"
        # Both ends have addresses, and the far one is not its own.
        source, port, destination, own_port = wrapped("here", *ssh, "echo $SSH_CONNECTION").split()
        assert (source[:4], destination[:4], own_port) == ("240.", "240.", "22")
        assert source != destination
        assert int(port) > 0


def test_nginx_and_curl(digest: str) -> None:
    config = b"""
user www-data;
worker_processes 2;
daemon off;
error_log stderr notice;
events {}
http {
    sendfile on;
    server {
        listen 80;
        listen [::]:80;
        root /srv;
        location = /who { return 200 "$remote_addr\\n"; }
    }
}
"""
    guest("there", "sh", "-c", "cat >/root/nginx.conf", stdin=config)
    with serving(b"start worker process ", "nginx", "-c", "/root/nginx.conf"):
        url = "http://there.inn"
        fetch = f"curl -sS {url}/data | sha256sum"
        assert wrapped("here", "sh", "-c", fetch) == f"{digest}  -\n"
        # Several at the same time, and several in one connection.
        many = " ".join(f"-o /tmp/{number} {url}/data" for number in range(3))
        script = f"curl -sS -Z {many}; curl -sS {many}; sha256sum /tmp/[012]"
        assert wrapped("here", "sh", "-c", script).count(digest) == 3
        # Whoever listens has one vsock port for both families, and sees the first one's form.
        for family in ("-4", "-6"):
            assert wrapped("here", "curl", "-sS", family, f"{url}/who") == "240.0.4.1\n"


def test_iperf3_with_four_streams(digest: str) -> None:
    assert digest
    with serving(b"Server listening on", "iperf3", "-s", "--forceflush"):
        for way in ((), ("-R",)):
            command = ("iperf3", "-c", "there.inn", "-P4", "-n", str(SIZE_BYTES), "-J", *way)
            result = json.loads(wrapped("here", *command))
            assert "error" not in result
            assert len(result["end"]["streams"]) == 4
            assert result["end"]["sum_received"]["bytes"] > 0


def test_redis(digest: str) -> None:
    assert digest
    server = ("redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "")
    with serving(b"Ready to accept connections", *server):
        value = hashlib.sha256(b"value").hexdigest().encode() * 20_000
        cli = ("redis-cli", "-h", "there.inn")
        assert wrapped("here", *cli, "-x", "set", "key", stdin=value) == "OK\n"
        assert wrapped("here", *cli, "--raw", "get", "key") == value.decode() + "\n"
        many = b"".join(b"SET key%d %d\r\n" % (number, number) for number in range(5000))
        assert "errors: 0, replies: 5000\n" in wrapped("here", *cli, "--pipe", stdin=many)
        assert wrapped("here", *cli, "dbsize") == "5001\n"


def test_pythons_http_server(digest: str) -> None:
    server = ("python3", "-u", "-m", "http.server", "-d", "/srv", "8000")
    with serving(b"Serving HTTP on", *server):
        program = """
import hashlib, urllib.request
page = urllib.request.urlopen("http://there.inn:8000/data", timeout=60)
print(hashlib.sha256(page.read()).hexdigest())
"""
        assert wrapped("here", "python3", "-c", program) == f"{digest}\n"


def test_socat_and_a_half_closed_stream(digest: str) -> None:
    listen = "TCP-LISTEN:7000,fork,reuseaddr"
    with serving(b"listening on", "socat", "-d", "-d", listen, "EXEC:sha256sum"):
        # The far end answers when it has seen the end of what is sent to it.
        guest("here", "sh", "-c", "cat >/srv/data", stdin=(data := bytes(range(256)) * 8192))
        script = "socat -t 60 - TCP:there.inn:7000 </srv/data"
        expected = hashlib.sha256(data).hexdigest()
        assert wrapped("here", "sh", "-c", script) == f"{expected}  -\n"
    assert digest


def test_static_programs(digest: str) -> None:
    """Nothing can be preloaded into busybox; the same command takes it nevertheless."""
    server = "busybox httpd -p 8000 -h /srv && echo listens && sleep 60"
    with serving(b"listens", "busybox", "sh", "-c", server):
        fetch = "busybox wget -q -O - http://there.inn:8000/data | busybox sha256sum"
        assert wrapped("here", "busybox", "sh", "-c", fetch) == f"{digest}  -\n"


def test_what_no_rule_allows_is_refused_at_once(digest: str, inn: Inn) -> None:
    assert digest
    with serving(b"listening on", "socat", "-d", "-d", "TCP-LISTEN:7001,fork", "EXEC:cat"):
        client = ("socat", "-", "TCP:there.inn:7001")
        done = inn("exec", "here", "--", "inn-guest", "wrap", "--", *client)
    assert done.code == 1
    assert "Connection refused" in done.error

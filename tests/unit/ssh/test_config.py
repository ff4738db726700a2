# SPDX-License-Identifier: Apache-2.0
"""The configuration of ssh: its text, and what happens to the user's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from innkeeper.registry.layout import Layout
from innkeeper.ssh.config import (
    install,
    places,
    plan_arguments,
    plan_file,
    plan_installed,
    plan_options,
    plan_removed,
    remove,
)

LAYOUT = Layout(runtime_dir="/r", cache_dir="/c", state_dir="/s p/50%")
PROGRAM = ("/opt/a b/python", "-m", "innkeeper")


def test_the_file() -> None:
    assert plan_file(plan_options(LAYOUT, PROGRAM, {})) == (
        "# Made by `inn ssh-config --install`; changes are lost.\n"
        "Host *.inn\n"
        "    IgnoreUnknown WarnWeakCrypto\n"
        "    ProxyCommand '/opt/a b/python' -m innkeeper ssh-proxy %n %p\n"
        "    User root\n"
        "    HostKeyAlias innkeeper\n"
        "    HostKeyAlgorithms ssh-ed25519\n"
        '    UserKnownHostsFile "/s p/50%%/ssh/known_hosts"\n'
        "    GlobalKnownHostsFile /dev/null\n"
        "    StrictHostKeyChecking yes\n"
        "    UpdateHostKeys no\n"
        "    WarnWeakCrypto no\n"
    )


def test_folders_named_by_the_environment_are_kept() -> None:
    env = {"INN_STATE_DIR": "/x y", "INN_RUNTIME_DIR": "", "OTHER": "z"}
    proxy = dict(plan_options(LAYOUT, PROGRAM, env))["ProxyCommand"]
    assert proxy.startswith("env 'INN_STATE_DIR=/x y' '/opt/a b/python'")


def test_the_command_line_says_the_same() -> None:
    arguments = plan_arguments((("User", "root"), ("Port", "22")))
    assert arguments == ("-o", "User=root", "-o", "Port=22")


@pytest.mark.parametrize(
    "own", [b"", b"Host a\n  User b\n", b"no newline", b"\xff\xfe\r\nHost x\r\n"]
)
def test_install_and_remove_leave_every_other_byte(own: bytes) -> None:
    file = Path("/home/u/.ssh/innkeeper.config")
    installed = plan_installed(own, file)
    assert installed.endswith(b'\nInclude "/home/u/.ssh/innkeeper.config"\n' + own)
    assert plan_installed(installed, file) == installed
    assert plan_installed(installed, Path("/h/innkeeper.config")).count(b"Include") == 1
    assert plan_removed(installed) == own
    assert plan_removed(own) == own


def test_a_linked_configuration_stays_a_link(tmp_path: Path) -> None:
    at = places(tmp_path)
    dotfiles = tmp_path / "dotfiles"
    dotfiles.write_text("Host a\n")
    at.folder.mkdir()
    (at.folder / "config").symlink_to(dotfiles)
    assert install(at, "x\n")
    assert not install(at, "x\n")
    assert install(at, "y\n"), "our own file is renewed"
    assert (at.folder / "config").is_symlink()
    assert dotfiles.read_text().endswith("Host a\n")
    assert remove(at)
    assert not remove(at)
    assert dotfiles.read_text() == "Host a\n"


def test_a_home_without_a_configuration(tmp_path: Path) -> None:
    at = places(tmp_path)
    assert not remove(at)
    assert install(at, "x\n")
    assert at.folder.stat().st_mode & 0o777 == 0o700
    assert at.config.stat().st_mode & 0o777 == 0o600

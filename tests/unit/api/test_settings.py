# SPDX-License-Identifier: Apache-2.0
"""Keywords become settings; names are imported at their first use; wrong use is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

import pytest

import innkeeper
from innkeeper.api.commands import make_command
from innkeeper.api.settings import (
    CreateOptions,
    MachineOptions,
    build_settings,
    read_tail,
)
from innkeeper.errors import InnError, UsageError
from innkeeper.model.machine import Machine as Settings


def test_keywords_become_settings() -> None:
    made = build_settings(
        "box", source="test", memory=256 << 20, network="user", ports=("8080:80",), append=("a",)
    )
    assert (made.name, made.memory_bytes, made.append) == ("box", 256 << 20, ("a",))
    assert made.ports[0].guest_port == 80
    assert build_settings("box", source="test", kernel=Path("/k")).kernel == "/k"


@pytest.mark.parametrize(
    "values",
    [
        {"memory": "much"},
        {"memory": -1},
        {"cpus": 0},
        {"ports": "8080:80"},
        {"ports": ["x"]},
        {"network": "bridge"},
        {"colour": "red"},
    ],
)
def test_nonsense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        build_settings("box", source="test", **values)


def test_every_setting_is_a_keyword() -> None:
    keywords = set(get_type_hints(CreateOptions)) | {"name"}
    assert keywords == {setting.removesuffix("_bytes") for setting in Settings.__struct_fields__}
    assert set(get_type_hints(MachineOptions)) == keywords - {"image", "name", "restart"}


@pytest.mark.parametrize("argv", ["ls -l", b"ls", [], ()])
def test_a_text_is_no_command(argv: str) -> None:
    with pytest.raises(UsageError, match="is no command"):
        make_command(argv, env=None, cwd=None, user=None)


def test_public_names_are_found() -> None:
    assert all(hasattr(innkeeper, name) for name in innkeeper.__all__)
    assert innkeeper.InnError is InnError
    assert "Machine" in dir(innkeeper)
    with pytest.raises(AttributeError, match="Mashine"):
        _ = innkeeper.Mashine


def test_unknown_machines_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INN_STATE_DIR", str(tmp_path))
    innkeeper.Machine.create("web", cpus=2)
    machine = innkeeper.Machine.get("web")
    assert machine.state == "created"
    assert [found.name for found in innkeeper.Machine.list()] == ["web"]
    with pytest.raises(InnError, match="unknown machine"):
        innkeeper.Machine.get("wed")
    with pytest.raises(InnError, match="created, not running"):
        machine.exec(["true"])
    with pytest.raises(UsageError):
        innkeeper.Machine.create("web")
    assert not machine.stop()
    assert machine.wait_for("stopped").state == "created"
    assert machine.remove()
    assert not machine.remove()


def test_a_console_is_shown_harmlessly(tmp_path: Path) -> None:
    path = tmp_path / "console.log"
    path.write_bytes(b"one\r\n\x1b[31mtwo\xff\r\nthree")
    assert read_tail(path, 2) == (" [31mtwo�", "three")
    assert read_tail(tmp_path / "none", 2) == ()

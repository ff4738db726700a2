# SPDX-License-Identifier: Apache-2.0
"""Recipes: what they may say, and that nonsense is answered with the nearest sense."""

from __future__ import annotations

import pytest

from innkeeper.errors import UnknownName, UsageError
from innkeeper.model.recipe import Recipe, recipe_from_table, recipe_schema
from innkeeper.model.toml import read_table


def test_a_recipe_file_gives_a_recipe() -> None:
    text = """
    suite = "trixie"
    packages = ["python3", "openssh-server"]
    init = "agent"
    format = "ext4"
    kernels = ["amd64", "cloud"]
    files = { "/etc/motd" = "hello" }
    """
    assert recipe_from_table(read_table(text, source="r"), source="r") == Recipe(
        suite="trixie",
        packages=("python3", "openssh-server"),
        init="agent",
        format="ext4",
        kernels=("amd64", "cloud"),
        files={"/etc/motd": "hello"},
    )


@pytest.mark.parametrize(
    ("table", "told"),
    [
        ({"suit": "trixie"}, "did you mean 'suite'"),
        ({"suite": "bookwurm"}, "did you mean 'bookworm'"),
        ({"init": "sytemd"}, "did you mean 'systemd'"),
        ({"format": "erofz"}, "did you mean 'erofs'"),
        ({"kernels": ["clud"]}, "did you mean 'cloud'"),
        ({"distribution": "fedora"}, "known: debian"),
    ],
)
def test_an_unknown_word_is_answered_with_the_nearest(table: dict[str, object], told: str) -> None:
    with pytest.raises(UnknownName) as failure:
        recipe_from_table(table, source="r.toml")
    assert told in failure.value.fix


@pytest.mark.parametrize(
    "table",
    [
        {"packages": ["--yes"]},
        {"packages": ["a b"]},
        {"packages": ["bash=5"]},
        {"packages": "bash"},
        {"kernels": []},
        {"kernels": ["cloud", "cloud"]},
        {"components": []},
        {"components": ["main,contrib"]},
        {"mirror": "not a mirror"},
        {"epoch": -1},
        {"mask": ["a/b"]},
        {"files": {"etc/motd": "x"}},
        {"files": {"/etc/../x": "x"}},
        {"files": {"/": "x"}},
    ],
)
def test_what_no_recipe_may_say(table: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        recipe_from_table(table, source="r.toml")


def test_the_schema_names_every_key() -> None:
    schema = recipe_schema()
    assert set(schema["properties"]) == set(Recipe.__struct_fields__)
    assert schema["additionalProperties"] is False

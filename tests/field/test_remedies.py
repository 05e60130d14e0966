"""Every error of an argument, a setting or a model says what to do about it: read from the source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import wsi_ats

ROOT = Path(wsi_ats.__file__).parent
KINDS = ("ConfigError", "ModelError")
APART = ("lowres/view.py", "manifest/splits.py")
"""Files with an error each that has its remedy within its message."""


def without_remedy(source: str) -> Iterator[int]:
    """Lines at which an error is made without a remedy, or with an empty one."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS:
            said = [*node.args[1:2], *(word.value for word in node.keywords if word.arg == "remedy")]
            if not said or (isinstance(said[0], ast.Constant) and not said[0].value):
                yield node.lineno


def test_every_error_that_a_user_can_mend_has_a_remedy() -> None:
    places = {path.relative_to(ROOT).as_posix(): path for path in ROOT.rglob("*.py")}
    bare = [
        f"{name}:{line}"
        for name, path in places.items()
        if name not in APART
        for line in without_remedy(path.read_text(encoding="utf-8"))
    ]
    assert not bare


def test_an_error_without_a_remedy_is_seen() -> None:
    assert list(without_remedy('raise ConfigError("a")\nraise ModelError("a", "")')) == [1, 2]
    assert not list(without_remedy('raise ConfigError("a", "b")\nraise ModelError("a", remedy=b)'))

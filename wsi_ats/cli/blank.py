"""Arguments of commands that are none: blank ones, since a variable of the shell that is not set leaves one and Python
takes a blank path for the current folder, where a command would then write, or look for its slides; and settings that
stand by themselves, since one --set was meant to take several."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand

from wsi_ats.cli.terminal import with_status
from wsi_ats.errors import ConfigError

SETTING = re.compile(r"[a-z_]+(\.\w+)+=")


class NotBlank(TyperCommand):
    """A command that takes no blank text for a value, whatever it is for; as it was typed, before it is a path."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """What is left of the arguments when the command's own are taken; ends the program where one is blank."""
        typed, left, _ = self.make_parser(ctx).parse_args(args=list(args))
        values = [(_name(param), typed.get(param.name)) for param in self.get_params(ctx)]
        with_status(lambda: _refuse_blank(values), resumable=False)()
        if any("--set" in param.opts for param in self.get_params(ctx)):
            alone = [typed.get(p.name) for p in self.get_params(ctx) if p.param_type_name == "argument"]
            with_status(lambda: _refuse_settings([*alone, *left]), resumable=False)()
        return super().parse_args(ctx, args)


def _refuse_blank(values: Iterable[tuple[str, object]]) -> None:
    for name, value in values:
        for text in value if isinstance(value, list | tuple) else [value]:
            if isinstance(text, str) and not text.strip():
                raise ConfigError(
                    f"{name} is {text!r}; it must not be blank",
                    remedy="give a value (of a path, . is the current folder); a variable of the shell that is not set "
                    "leaves a blank",
                )


def _refuse_settings(texts: Iterable[object]) -> None:
    for text in texts:
        if isinstance(text, str) and SETTING.match(text):
            raise ConfigError(
                f"{text} stands by itself: --set takes one setting",
                remedy=f"give each one a --set of its own: --set {text}",
            )


def _name(param: Any) -> str:
    """The name of an option or an argument as the help has it."""
    return str(param.opts[0] if param.param_type_name == "option" else param.metavar or param.name.upper())

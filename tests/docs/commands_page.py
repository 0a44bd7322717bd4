"""`docs/commands.md`: every command with its arguments, options and exit codes, from the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import typer

from consumer.cli import app
from consumer.process import Exit
from tests.docs.markdown import code, table, text

_PREFACE: Final = """\
# Commands

<!-- Written by `make docs-references` from consumer/cli.py and the rooms beside it: edit those. -->

`consumer` is the console script; `python -m consumer` is the same. In a clone it is `.venv/bin/consumer`, once any
`make` target ran. Every command reads the same [configuration](configuration.md), and `--help` tells its options.
"""
_EXITS: Final = {
    Exit.OK: "the work is done; for `consumer run`: everything was given back or finished after SIGTERM",
    Exit.FAILED: "the work itself failed, or something differs",
    Exit.CONFIGURATION: "the configuration or the command line is wrong; all problems are told at once",
    Exit.UNREACHABLE: "an endpoint that is needed is unreachable or refuses us",
}


def page() -> str:
    """The whole document."""
    exits = [(code(str(int(exit_code))), text(_EXITS[exit_code])) for exit_code in Exit]
    sections = [f"## {name}\n\n{_described(name, command)}" for name, command in commands().items()]
    return "\n".join([_PREFACE, "## Exit codes\n", table(("code", "means"), exits), *sections])


def commands() -> dict[str, Any]:
    """Every command that does something, by what is typed: `consumer routes list`."""
    # Any: typer carries its own copy of click, which is not part of what it promises.
    return dict(_walk("consumer", typer.main.get_command(app)))


def _walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
        return
    for word, below in command.commands.items():
        yield from _walk(f"{name} {word}", below)


def _described(name: str, command: Any) -> str:
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    usage = " ".join([name, *(_typed(parameter) for parameter in shown)])
    told = "\n\n".join(text(paragraph) for paragraph in command.help.split("\n\n"))
    parts = [told, "", "```sh", usage, "```", ""]
    if shown:
        rows = [(code(_named(parameter)), _meaning(parameter)) for parameter in shown]
        parts.append(table(("argument", "meaning"), rows))
    return "\n".join(parts)


def _meaning(parameter: Any) -> str:
    told = text(parameter.help or "")
    given = parameter.default
    # A switch that is off, and what has no default, need no word about it.
    return (
        f"{told} Default: {code(str(given))}."
        if isinstance(given, str | int | float) and given is not False and given != ""
        else told
    )


def _typed(parameter: Any) -> str:
    many = "..." if parameter.nargs == -1 else ""
    word = _named(parameter)
    return f"{word}{many}" if parameter.required else f"[{word}]{many}"


def _named(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name.upper())
    option = "/".join([*parameter.opts, *parameter.secondary_opts])
    return option if parameter.is_flag else f"{option} {parameter.metavar or parameter.name.upper()}"

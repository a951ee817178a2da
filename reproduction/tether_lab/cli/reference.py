"""The reference of the command line, read from the commands themselves."""

from __future__ import annotations

import inspect
from typing import Any

from tether.cli import EXAMPLES, as_command, verbs
from tether.core.markdown import page, table


def reference() -> str:
    """One section for each verb: what it does, its arguments and its options."""
    blocks = []
    for title, rows in verbs.sections().items():
        blocks += [f"## {title}"]
        for verb in rows:
            blocks += _verb(verb)
    return page(
        "# Command line",
        "`tether VERB --help` shows the same. A mistake in what was given ends with exit code 2 and one message that "
        "names the file, row or key; `tether --traceback VERB ...` shows where it arose; Ctrl-C ends with 130, "
        "SIGTERM with 143, and either with 130 where work was kept to go on from.",
        *blocks,
    )


def _verb(verb: str) -> list[str]:
    command = as_command(verb)
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    options = [
        parameter
        for parameter in command.params
        if parameter.param_type_name == "option" and "--help" not in parameter.opts
    ]
    what, _, examples = inspect.cleandoc(command.help or "").partition(f"\b\n{EXAMPLES}")
    usage = " ".join(["tether", verb, *("[OPTIONS]" for _ in options[:1]), *map(_metavar, arguments)])
    return [
        f"### tether {verb}",
        what.strip(),
        f"```\n{usage}\n```",
        f"```\n{inspect.cleandoc(examples)}\n```",
        table(["argument", "what it is"], ([f"`{_metavar(one)}`", one.help or ""] for one in arguments))
        if arguments
        else "",
        table(["option", "what it does", "default"], map(_option, options)) if options else "",
    ]


def _metavar(argument: Any) -> str:
    name = (argument.metavar or argument.name).upper() + ("..." if argument.nargs != 1 else "")
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> list[str]:
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if option.required:
        return [names, option.help or "", "required"]
    default = option.default
    nothing = default is None or default is False or default in ((), []) or callable(default)
    return [names, option.help or "", "" if nothing else f"`{default}`"]

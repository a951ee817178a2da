"""Options that several verbs have, and where their output goes."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from tether.cli.say import as_json, say
from tether.core.printable import quoted

Device = Annotated[str, typer.Option(help="auto (an accelerator if there is one), cpu, cuda, cuda:1...")]
Json = Annotated[
    str | None,
    typer.Option(help="Print JSON instead; with a FILE.json after it, write it there besides.", metavar="[FILE.json]"),
]
Existing = Annotated[
    Literal["refuse", "replace"], typer.Option(help="What to do about a file of that name that is there.")
]
ModelName = Annotated[
    str, typer.Argument(help="A run or model folder, starter, open_clip:ARCHITECTURE/WEIGHTS or hf:OWNER/NAME.")
]
RandomWeights = Annotated[bool, typer.Option("--random-weights", help="Accept a model without trained weights.")]
LongText = Annotated[
    Literal["cut", "windows", "stretch", "linear"],
    typer.Option(help="Texts past the model's context: cut, read through windows, or by interpolated positions."),
]
RawCsv = Annotated[
    bool, typer.Option("--raw-csv", help="Write cells that a spreadsheet would run as formulas as they are.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad row.")]
STDOUT = "-"


def missing(context: typer.Context, name: str) -> Exception:
    """The error of an argument that is only sometimes needed; what click says of one that always is.

    Args:
        context: of the verb.
        name: of its parameter.
    """
    parameter: Any = next(each for each in context.command.params if each.name == name)
    kind: Any = next(each for each in typer.BadParameter.__subclasses__() if each.__name__ == "MissingParameter")
    return kind(ctx=context, param=parameter)


def only_with(context: typer.Context, way: str, known: str) -> None:
    """Refuse what was given and does nothing in this way of a verb.

    Args:
        context: of the verb.
        way: what it was asked for, such as ``--learn``.
        known: names of the parameters that do something there, with blanks between them.

    Raises:
        BadParameter: it names the option.
    """
    for each in context.command.params:
        parameter: Any = each
        source = context.get_parameter_source(parameter.name)
        if parameter.name not in known.split() and source is not None and source.name == "COMMANDLINE":
            raise typer.BadParameter(f"does nothing with {way}; leave it out", ctx=context, param=parameter)


def only_beside(context: typer.Context, name: str, *, other: str) -> None:
    """Refuse a parameter that was given without the option that it belongs to.

    Args:
        context: of the verb.
        name: of the parameter.
        other: the option that was not given, such as ``--negative``.

    Raises:
        BadParameter: it names the option.
    """
    source = context.get_parameter_source(name)
    if source is not None and source.name == "COMMANDLINE":
        parameter: Any = next(each for each in context.command.params if each.name == name)
        raise typer.BadParameter(f"does nothing without {other}; leave it out", ctx=context, param=parameter)


def settings_of(words: Sequence[str] | None, *, hint: str) -> dict[str, Any]:
    """Settings given as ``key=value``, the values as YAML has them.

    Args:
        words: one for each.
        hint: their option or argument, for the error.

    Raises:
        BadParameter: not of that form.
        InputError: a value that is no YAML.
    """
    from tether.core.yaml_files import parse_yaml

    found = dict[str, Any]()
    for one in words or ():
        key, equals, value = one.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"expected key=value, got {quoted(one)}", param_hint=hint)
        found[key] = parse_yaml(value, where=f"setting {quoted(one)}")
    return found


def given(**values: Any) -> dict[str, Any]:
    """Those that are not None: what was not said has the default of the function that is called."""
    return {name: value for name, value in values.items() if value is not None}


def json_alone(command: Any) -> None:
    """Let ``--json`` stand without a file: only ``-`` and a name ending in .json or .jsonl are taken for one."""
    parse = command.parse_args

    def parse_args(ctx: Any, args: list[str]) -> list[str]:
        pairs = zip(args, [*args[1:], ""], strict=False)
        alone = [(one, STDOUT) if one == "--json" and not _names_json(after) else (one,) for one, after in pairs]
        return parse(ctx, [word for words in alone for word in words])

    if any(parameter.name == "json" for parameter in command.params):
        command.parse_args = parse_args


def _names_json(word: str) -> bool:
    return word == STDOUT or word.lower().endswith((".json", ".jsonl"))


def check_new(path: Path | str | None, *, existing: str, where: str) -> None:
    """Refuse a file that is there already, unless it shall be replaced, and one that cannot be written; not ``-``."""
    from tether.core.atomic_io import check_file
    from tether.core.errors import InputError

    if path is None or path == STDOUT:
        return
    check_file(Path(path), where=where)
    if Path(path).exists() and existing == "refuse":
        raise InputError(f"{where}: {path} is there already; give another name, or --existing replace")


def check_endings(**endings: tuple[Path | None, str]) -> None:
    """Refuse a file whose name says that it is of another kind than what is written.

    Args:
        endings: by option without its dashes, the file or None, and the endings that fit, with blanks between them.

    Raises:
        InputError: it names option, file and endings.
    """
    from tether.core.errors import InputError

    for name, (path, fit) in endings.items():
        if path is not None and path.suffix.lower() not in fit.split():
            raise InputError(f"--{name}: expected a name that ends in {' or '.join(fit.split())}, got {path}")


def check_outputs(
    outputs: Mapping[str, Path | str | None],
    *,
    existing: str,
    inputs: Mapping[str, object] | None = None,
    log: Path | None = None,
    folders: Mapping[str, Path | None] | None = None,
) -> None:
    """See that a verb's files can be written, each once, and none over what it reads; before anything is done.

    Args:
        outputs: by option; None and ``-`` are no file. A folder that the verb looks after itself goes to ``inputs``.
        existing: see ``check_new``.
        inputs: what must not be written over, by option: paths, patterns, data sets with paths among their settings.
        log: of the rows that are skipped; it is written anew whatever ``existing`` says, if it is such a log.
        folders: that are written new and whole, by option, so that nothing else may lie in one.

    Raises:
        InputError: two of one name, an input, or see ``check_new``, ``core.atomic_io.check_new_folder`` and
            ``data.bad_rows_log.check_log``.
    """
    from tether.core.atomic_io import check_new_folder, local
    from tether.core.errors import InputError

    named = {where: path for where, path in outputs.items() if path is not None and path != STDOUT}
    if log is not None:
        named["the log of bad rows"] = log
    full = dict[str, Path]()
    for where, path in named.items():
        with contextlib.suppress(InputError, OSError):  # check_new says why no file can be there
            full[where] = local(path).resolve()
    known = [(where, spot) for where, value in (inputs or {}).items() for spot in _spots(value)]
    for number, (where, path) in enumerate(full.items()):
        for other, taken in [*list(full.items())[:number], *known]:
            if path == taken or (has_magic(str(taken)) and path.exists() and fnmatch(str(path), str(taken))):
                raise InputError(f"{where}: {named[where]} is {other}, too; give it another name")
    for where, folder in (folders or {}).items():
        if folder is None:
            continue
        check_new_folder(folder, where=where)
        for other, taken in [*full.items(), *known]:
            if taken.is_relative_to(local(folder).resolve()):
                raise InputError(f"{other}: {taken} lies in {where}, which shall be a new folder; give another name")
    for where, path in outputs.items():
        check_new(path, existing=existing, where=where)
    if log is not None:
        from tether.data.bad_rows_log import check_log

        check_log(log)


def log_beside(out: Path) -> Path:
    """Where a verb that writes a file logs the rows that it skips."""
    return out.parent / f"{out.stem}.bad_rows.jsonl"


def _spots(value: object) -> Iterator[Path]:
    """The places that an option's value may name: itself, and what stands in the settings of a data set."""
    from tether.core.atomic_io import local
    from tether.core.errors import InputError

    for one in value if isinstance(value, list | tuple) else [value]:
        words = {str(one), *re.split(r"[=,:\[\]]", str(one))} if isinstance(one, str | Path) else set()
        for word in words - {""}:
            with contextlib.suppress(InputError, OSError):
                yield local(word).resolve()


def put_json(value: Any, *, to: str, lines: bool = False) -> None:
    """Print a value as JSON, or write it to the file that ``--json`` named.

    Args:
        value: the value, or a sequence of them.
        to: what ``--json`` gave.
        lines: one line for each value of the sequence.
    """
    from tether.core.atomic_io import write_text

    def shown(indent: int | None) -> str:
        return "".join(f"{as_json(one, indent=indent)}\n" for one in (value if lines else [value]))

    text = shown(None if lines else 2)
    if to == STDOUT:
        say(text.removesuffix("\n"), lines=True) if text else None
        return
    write_text(Path(to), text)
    say(f"wrote {to}", err=True)

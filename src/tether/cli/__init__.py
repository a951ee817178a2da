"""The command line: one small file per verb, imported only when the verb is used."""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TextIO, get_args, get_origin

import typer
from typer.core import TyperGroup
from typer.main import get_command

from tether import __version__
from tether.cli import verbs
from tether.cli.options import json_alone
from tether.cli.say import say
from tether.cli.stopping import Terminated
from tether.core.allocator import keep_freed_memory
from tether.core.errors import MissingExtraError, StoppedError, TetherError, reason_of
from tether.core.printable import printable

BAD_INPUT = 2
INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT and 128 + SIGTERM, what a shell expects
TRACEBACK = "TETHER_TRACEBACK"
EXAMPLES = "Examples:\n"
"""Heads the last paragraph of a verb's docstring: commands, one a line."""
_PLAIN = (str, str | None, bool)
_Usage: Any = typer.BadParameter.__base__  # of every mistake in what was typed; typer does not export it


class Verbs(TyperGroup):
    """The group of all verbs: lists them without importing, imports the one that is used.

    Attributes:
        package: dotted name of the package with a module for each verb.
        folder: where it lies.
        order: verbs by section of the help.
    """

    package: ClassVar[str] = "tether.cli"
    folder: ClassVar[Path] = verbs.FOLDER
    order: ClassVar[Mapping[str, Sequence[str]]] = verbs.SECTIONS

    def list_commands(self, ctx: Any) -> list[str]:
        """Every verb, in the order of the help."""
        return verbs.names(self.folder, self.order)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The verb's command, or None when there is no such verb."""
        name = verbs.module_name(cmd_name)
        path = self.folder / f"{name}.py"
        if not name.isidentifier() or not path.is_file() or verbs.summary(path) is None:
            return None
        return as_command(cmd_name, package=self.package)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The verb that the first argument names; a mistake is answered with the nearest one."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            known = self.list_commands(ctx)
            near = difflib.get_close_matches(args[0], known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            ctx.fail(f"no verb {args[0]!r}; {hint}known: {', '.join(known)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One table for each section of the help."""
        for title, rows in verbs.sections(self.folder, self.order).items():
            with formatter.section(title):
                formatter.write_dl(list(rows.items()))

    def make_context(self, *args: Any, **extra: Any) -> Any:
        """Read what is in front of the verb, and show the help where it is asked for."""
        with _one_message():
            return super().make_context(*args, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; what went wrong on purpose becomes one message on stderr and an exit code."""
        _quote_log()
        keep_freed_memory()
        with _one_message(lambda: self.get_command(ctx, ctx.invoked_subcommand or "")):
            return super().invoke(ctx)


@contextlib.contextmanager
def _one_message(verb: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """What a user can cause ends in one message and an exit code; a bug keeps its traceback.

    Args:
        verb: gives the command that runs, whose options a message names as they are typed.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        raise typer.Exit(_interrupted(error)) from None
    except StoppedError as error:
        raise typer.Exit(_say(str(error), code=INTERRUPTED)) from None
    except TetherError as error:
        from tether.cli.mistakes import as_typed

        raise typer.Exit(_fail(error, as_typed(str(error), verb()))) from error
    except ModuleNotFoundError as error:
        extra = extra_of(error.name or "")
        if extra is None:
            raise
        raise typer.Exit(_fail(error, str(MissingExtraError(error.name or "", extra=extra)))) from error
    except OSError as error:
        if error.errno == errno.EPIPE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        raise typer.Exit(_fail(error, f"{where}{reason_of(error)}")) from error
    except Exception as error:
        if isinstance(error, _Usage):
            error.message = printable(error.message, keep="\n") + _example(error)
            if (option := getattr(error, "option_name", None)) and hasattr(error, "possibilities") and error.ctx:
                _say_instead(error, option)
            elif "unexpected extra argument" in error.message:
                from tether.cli.mistakes import several_files

                error.message += several_files(error.message)
        elif type(error) is RuntimeError and isinstance(error.__context__, KeyboardInterrupt):
            # A signal within ``Condition.wait`` leaves the lock untaken, and giving it back fails.
            raise typer.Exit(_interrupted(error.__context__)) from None
        elif isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or "CPUAllocator" in str(error):
            raise typer.Exit(_fail(error, f"out of memory: {reason_of(error)}")) from error
        raise


def _example(error: Any) -> str:
    """Where something is missing, the first example of the verb's help, as the end of a message."""
    if (
        type(error).__name__ != "MissingParameter"
        or error.ctx is None
        or EXAMPLES not in (error.ctx.command.help or "")
    ):
        return ""
    return f"For example: {error.ctx.command.help.partition(EXAMPLES)[2].strip().splitlines()[0]}"


def _say_instead(error: Any, option: str) -> None:
    """Add to the message on an unknown option what to type, if anything comes near."""
    from tether.cli.mistakes import instead

    if said := instead(option, error.ctx.command):
        error.message, error.possibilities = f"{error.message}; {said}", None


def _quote_log() -> None:
    """Show what is logged as one line that a terminal does not obey."""
    import logging

    class Line(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return f"tether: {record.levelname.lower()}: {printable(super().format(record))}"

    if logging.lastResort is not None:
        logging.lastResort.setFormatter(Line())


def as_command(verb: str, *, package: str = Verbs.package) -> Any:
    """The verb's typer command; imports its module."""
    module = importlib.import_module(f"{package}.{verbs.module_name(verb)}")
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    app.command(name=verb)(module.command)
    command = _plainly(get_command(app))
    command.help = (command.help or "").replace(EXAMPLES, f"\b\n{EXAMPLES}")  # \b: lines that follow stay lines
    json_alone(command)
    return command


class _AsGiven:
    """Takes a value as it was typed."""

    def coerce(self, value: Any, **_: Any) -> Any:
        return value


class _OneOf:
    """Takes one of some words as it was typed, and leaves the refusal of others to typer."""

    def __init__(self, words: Sequence[str], parameter: Any) -> None:
        """Take the words, and the parameter whose own reading is asked for others."""
        self._words, self._parameter = words, parameter

    def coerce(self, value: Any, **more: Any) -> Any:
        if value in self._words:
            return value
        self._parameter._runtime_param = None
        return self._parameter.get_runtime_param().coerce(value, **more)


def _plainly(command: Any) -> Any:
    """Words, flags and choices are taken as typed: typer would import pydantic for them, which takes long.

    Another version of typer may not read this attribute; it then is slower and does the same.
    """
    every = command.get_params

    def get_params(ctx: Any) -> list[Any]:
        parameters = every(ctx)
        for parameter in parameters:
            annotation = getattr(getattr(parameter, "type_descriptor", None), "annotation", None)
            if annotation in _PLAIN:
                parameter._runtime_param = _AsGiven()
            elif get_origin(annotation) is Literal:
                parameter._runtime_param = _OneOf(get_args(annotation), parameter)
        return parameters

    command.get_params = get_params
    return command


def root(group: type[Verbs] = Verbs, about: Callable[..., None] | None = None) -> Any:
    """The whole command line as one command.

    Args:
        group: its verbs.
        about: takes what stands in front of the verb, and says what the command line is for.
    """
    app = typer.Typer(
        cls=group,
        rich_markup_mode=None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(about or _root)
    return _plainly(get_command(app))


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command line; ends with 0, 1 (a check failed), 2 (bad input), 130 (Ctrl-C, or work kept), 143 (SIGTERM)."""
    run(root(), argv, name="tether")


def run(command: Any, argv: Sequence[str] | None, *, name: str) -> None:
    """Run what ``root`` gives; see ``main``."""
    warnings.showwarning = _show_warning
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal may not know every letter
            stream.reconfigure(errors="backslashreplace")
    try:
        command(args=None if argv is None else list(argv), prog_name=name)
    except KeyboardInterrupt as error:
        sys.exit(_interrupted(error))


def _interrupted(error: KeyboardInterrupt) -> int:
    """Say it last: what a library leaves half done is meant to be, so its warnings tell nobody anything."""
    warnings.simplefilter("ignore")
    if isinstance(error, Terminated):
        return _say("terminated", code=TERMINATED)
    return _say("interrupted", code=INTERRUPTED)


def extra_of(module: str) -> str | None:
    """Which extra of this package brings a module, or None when none does."""
    import re
    from importlib.metadata import requires

    distributions = {
        "faiss": "faiss-cpu",
        "huggingface_hub": "huggingface-hub",
        "conformal_clip_data": "conformal-clip-data",
    }
    top = module.partition(".")[0]
    wanted = distributions.get(top, top).replace("_", "-").lower()
    for line in requires("tether-clip") or ():
        requirement, _, marker = line.partition(";")
        extra = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", marker)
        name = re.match(r"[A-Za-z0-9._-]+", requirement)
        if extra and name and name[0].replace("_", "-").lower() == wanted and extra[1] != "dev":
            return extra[1]
    return None


def _version(wanted: bool) -> None:
    if wanted:
        say(f"tether {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", callback=_version, is_eager=True)
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where in the code an error arose.")] = False,
) -> None:
    """Curate pairs of images and words, train a CLIP that does not diverge, look inside it and use it."""
    if traceback:
        os.environ[TRACEBACK] = "1"


def _say(message: str, *, code: int) -> int:
    say(f"tether: {message}", err=True, lines=True)
    return code


def _fail(error: BaseException, message: str) -> int:
    if os.environ.get(TRACEBACK):
        import traceback

        say("".join(traceback.format_exception(error)).rstrip("\n"), err=True, lines=True)
    return _say(message, code=BAD_INPUT)


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say(f"tether: warning: {message}", err=True, lines=True)

"""``tether methods``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from tether.cli.options import Existing, Json, check_outputs, put_json
from tether.cli.say import say
from tether.core.method_files import MethodFile


def command(
    slug: Annotated[str | None, typer.Argument(help="Show the parts of this one, such as zclip.")] = None,
    find: Annotated[
        str | None,
        typer.Option(help="Only those that name this word, author or arXiv id; modules that name it are listed too."),
    ] = None,
    verdict: Annotated[str | None, typer.Option(help="Only those with this verdict, such as reproduced.")] = None,
    needs: Annotated[
        str | None, typer.Option(help="Only those that need this, such as pairs; part of a word will do.")
    ] = None,
    json: Json = None,
    existing: Existing = "refuse",
) -> None:
    """List the published methods: what each gives, and how the check of its paper's claim came out.

    Checks are small, most on synthetic data. "Reproduced": the margin is reached and every condition holds.
    "In part": a condition fails. "Direction only": better, but by less than the margin. "Not shown": the seeds do
    not tell the two apart. "Contrary": worse.

    Examples:
      tether methods
      tether methods zclip
      tether methods --find 2504.02507
      tether methods --needs "a trained encoder" --json
    """
    from tether.core.component import closest
    from tether.core.errors import InputError
    from tether.core.method_files import check_listed, method_files

    check_outputs({"--json": json}, existing=existing)
    every = {one.slug: one for one in method_files()}
    if slug is not None and slug not in every:
        check_listed()
        raise InputError(f"no method {slug!r}; {closest(slug, every)}")
    if slug is not None and (find or verdict or needs):
        raise InputError("a name shows one method; leave out --find, --verdict and --needs")
    known = sorted({str(one.values["verdict"]).lower() for one in every.values() if "verdict" in one.values})
    if verdict is not None and verdict.lower() not in known:
        raise InputError(f"--verdict: no {verdict!r}; known: {', '.join(known)}")
    sought = None if find is None else _sought(find)
    chosen = [
        one
        for one in every.values()
        if slug in (None, one.slug)
        and (verdict is None or str(one.values.get("verdict")).lower() == verdict.lower())
        and (needs is None or any(needs.lower() in need.lower() for need in one.values.get("needs", ())))
        and (sought is None or _names(one, sought))
    ]
    modules = [] if sought is None else _modules(sought)
    if json is not None:
        put_json([{"slug": one.slug, **one.values} for one in chosen], to=json)
    elif slug is not None:
        _show(chosen[0])
    else:
        _list(chosen, of=len(every), modules=modules, find=find)
    if slug is None:
        check_listed()  # last, for what is there is of use all the same


def _sought(text: str) -> str:
    """A text, or the arXiv id in it, such as that of an address or of a version."""
    identifier = re.search(r"(?<!\d)\d{4}\.\d{4,5}(?!\d)", text)
    return identifier[0] if identifier else text


def _names(method: MethodFile, text: str) -> bool:
    """Whether a method's words have a text in them, without regard to case and hyphens."""
    values = method.values
    words = [method.slug, *(str(values.get(name, "")) for name in ("title", "arxiv", "code", "gives", "venue"))]
    words += [*values.get("authors", ()), *values.get("parts", {}), *values.get("parts", {}).values()]
    words += [name for _, name, _ in method.registered()]
    return _plain(text) in _plain(" ".join(words))


def _plain(text: str) -> str:
    return "".join(letter for letter in text.lower() if letter.isalnum() or letter == ".")


def _modules(text: str) -> list[tuple[str, str]]:
    """Modules whose source names a text, with the first line of each: ideas that have no page of their own."""
    import ast

    import tether

    root = Path(tether.__file__).parent
    found = []
    for path in sorted(root.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if text.lower() in source.lower():
            said = (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]
            found.append((path.relative_to(root.parent).as_posix(), said))
    return found


def _show(method: MethodFile) -> None:
    values: dict[str, Any] = dict(method.values)
    lines = [(name, str(values[name])) for name in ("title", "year", "venue") if name in values]
    lines += [("authors", ", ".join(values["authors"]))] if "authors" in values else []
    lines += [("paper", f"https://arxiv.org/abs/{values['arxiv']}")] if "arxiv" in values else []
    lines += [("code", f"https://github.com/{values['code']}")] if "code" in values else []
    lines += [("gives", str(values["gives"]))] if "gives" in values else []
    lines += [("checked", str(values["claim"]))] if "claim" in values else []
    lines += [("verdict", _verdict(values))] if "verdict" in values else []
    lines += [("needs", "; ".join(values["needs"]))] if values.get("needs") else []
    lines += [("guide", f"docs/guides/{values['guide']} (in a clone)")] if "guide" in values else []
    lines += [("part", f"{part}  {what}") for part, what in values.get("parts", {}).items()]
    lines += [("adds", f"{name} to {kind}") for kind, name, _ in method.registered()]
    for name, value in lines:
        say(f"{name:<9}{value}")


def _verdict(values: Mapping[str, Any]) -> str:
    """How the check came out, and how it did on photographs where it was made there, too."""
    photos = f", on photographs {values['on_photographs']}" if "on_photographs" in values else ""
    return f"{values.get('verdict', '')}{photos}"


def _list(chosen: list[MethodFile], *, of: int, modules: list[tuple[str, str]], find: str | None) -> None:
    import shutil
    import sys

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    columns = [[one.slug, _verdict(one.values), str(one.values.get("gives", ""))] for one in chosen]
    slug, verdict = (max((len(row[at]) for row in columns), default=0) for at in (0, 1))
    for name, word, gives in columns:
        line = f"{name:<{slug}}  {word:<{verdict}}  {gives}"  # one line a method, for grep
        say(line if width is None or len(line) <= width else f"{line[: width - 1]}…")
    say(f"{len(chosen)} of {of} methods; tether methods SLUG shows the parts of one")
    for path, said in modules:
        say(f"{find} is named in {path}: {said}")

"""Write the skeleton of a paper: ``python scripts/new_paper --slug gate-norm --part optim.clip.gate_norm.GateNorm``.

It makes the part where there is none yet, its entry in the registry of ``--mapping`` if a configuration is to name it,
the ``method.toml``, the card with its study, and the test that reads the official figures; each says TO FILL IN where
a person must write, and the tests fail until it is done.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Template

HERE = Path(__file__).parent
MEASURED = {"CLIPPERS", "OPTIMIZERS"}
"""Registries whose every member stands in the stability bench."""


@dataclass(frozen=True)
class Table:
    """A registry: its file, its members there, the protocol that they keep."""

    path: Path
    literal: ast.Dict
    promise: str


def main(given: list[str] | None = None, *, root: Path = HERE.parents[1]) -> None:
    """Write the files of one paper into a checkout; nothing is written when anything is amiss."""
    parser = argparse.ArgumentParser(prog="new_paper", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slug", required=True, help="lower-case words with hyphens, such as gate-norm")
    parser.add_argument(
        "--part", required=True, help="module.Class below tether, such as optim.clip.gate_norm.GateNorm"
    )
    parser.add_argument("--guide", required=True, help="file of docs/guides that shows how to use it: stability.md")
    parser.add_argument("--mapping", help="registry of the part's package that it joins, such as CLIPPERS")
    args = parser.parse_args(given)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", args.slug):
        parser.error(f"--slug: expected lower-case words joined by hyphens, such as gate-norm, got {args.slug!r}")
    if not re.fullmatch(r"[a-z]\w*(\.[a-z]\w*)+\.[A-Za-z]\w*", args.part):
        parser.error(
            f"--part: expected module.Class below tether, such as optim.clip.gate_norm.GateNorm, got {args.part!r}"
        )
    names = args.part.removeprefix("tether.").split(".")
    code, guides = root / "src" / "tether", root / "docs" / "guides"
    if not (guides / args.guide).is_file():
        known = ", ".join(sorted(path.name for path in guides.glob("*.md")))
        parser.error(f"--guide: no {args.guide!r} in {guides}; known: {known}")
    part, stem = code.joinpath(*names[:-1]).with_suffix(".py"), args.slug.replace("-", "_")
    if not part.parent.is_dir():
        parser.error(f"--part: no folder {part.parent}")
    tables = list(_tables(code / names[0], args.mapping))
    if args.mapping and len(tables) != 1:
        parser.error(f"--mapping: expected one registry {args.mapping} below {code / names[0]}, got {len(tables)}")
    words = {
        "slug": args.slug,
        "package": names[0],
        "guide": args.guide,
        "name": names[-1],
        "module": ".".join(["tether", *names[:-1]]),
        "promise": "".join(f"It keeps the promise of {table.promise}, method by method. " for table in tables),
    }
    lab = root / "reproduction" / "tether_lab" / "papers"
    files = {
        code / "methods" / stem / "method.toml": _filled("method.toml.template", words),
        lab / stem / "study.py": _filled("card.py.template", words),
        root / "tests" / "golden" / f"test_{stem}.py": _filled("golden.py.template", words),
    }
    if not part.is_file():
        files[part] = _filled("part.py.template", words)
    elif not any(getattr(node, "name", "") == names[-1] for node in ast.parse(part.read_text(encoding="utf-8")).body):
        parser.error(f"--part: {part} exists already and defines no {names[-1]}")
    for path in files.keys() - {part}:
        if path.exists():
            parser.error(f"{path} exists already; choose another slug or edit that file")
    listed = code / "methods" / "slugs.txt"
    slugs = {*listed.read_text(encoding="utf-8").split(), args.slug}
    files[listed] = "".join(f"{slug}\n" for slug in sorted(slugs))
    target = f"{words['module']}:{names[-1]}"
    files |= {table.path: _registered(table, stem, target) for table in tables}
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        print(f"wrote {path.relative_to(root).as_posix()}")
    print(f"to come: tests/golden/vectors/{args.slug}.npz, {lab.relative_to(root).as_posix()}/{stem}/result.json")
    print(f"and what docs/guides/{args.guide} says of it")
    if args.mapping in MEASURED:
        print(f"when it works: tether-lab bench stability --publish, which measures {stem} alone")


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((HERE / template).read_text(encoding="utf-8")).substitute(words)


def _tables(package: Path, name: str | None) -> Iterator[Table]:
    """Registries of this name."""
    for path in sorted(package.rglob("*.py")) if name else ():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            match node:
                case ast.AnnAssign(
                    target=ast.Name(id=found),
                    annotation=ast.Subscript(value=ast.Name(id="Registry"), slice=promise),
                    value=ast.Call(args=[_, ast.Dict() as literal]),
                ) if found == name:
                    yield Table(path, literal, ast.unparse(promise))


def _registered(table: Table, key: str, target: str) -> str:
    """The registry's file with the part as its last entry."""
    lines, last = table.path.read_text(encoding="utf-8").splitlines(keepends=True), table.literal.end_lineno or 0
    if not table.literal.keys:
        start = table.literal.col_offset
        before, after = lines[last - 1][:start], lines[last - 1][start:].removeprefix("{}")
        lines[last - 1] = f'{before}{{"{key}": "{target}"}}{after}'
    else:
        indent = " " * ((table.literal.end_col_offset or 1) + 3)
        lines.insert(last - 1, f'{indent}"{key}": "{target}",\n')
    return "".join(lines)


if __name__ == "__main__":
    main()

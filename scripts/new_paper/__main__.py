"""Write the skeleton of a paper: ``python scripts/new_paper --slug gate-norm --package optim --mapping CLIPPERS``.

It makes the part, its line in the package's mapping, the card, and the test that reads the official figures; each says
TO FILL IN where a person must write, and the tests fail until it is done.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from string import Template

HERE = Path(__file__).parent


def main(given: list[str] | None = None, *, root: Path = HERE.parents[1]) -> None:
    """Write the files of one paper into a checkout; nothing is written when anything is amiss."""
    parser = argparse.ArgumentParser(prog="new_paper", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--slug", required=True, help="lower-case words with hyphens, such as gate-norm")
    parser.add_argument("--package", required=True, help="where the part lives, such as optim")
    parser.add_argument("--mapping", required=True, help="which mapping of the package it joins, such as CLIPPERS")
    args = parser.parse_args(given)
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", args.slug):
        parser.error(f"--slug: expected lower-case words joined by hyphens, such as gate-norm, got {args.slug!r}")
    opening = re.compile(rf"^{re.escape(args.mapping)}: Mapping\[str, type\[(\w+).*\{{\n", re.MULTILINE)
    package = root / "src" / "tether" / args.package
    found = [path for path in sorted(package.rglob("*.py")) if opening.search(path.read_text(encoding="utf-8"))]
    if len(found) != 1:
        parser.error(f"--mapping: expected one {args.mapping} with an entry a line below {package}, got {len(found)}")
    registry, text = found[0], found[0].read_text(encoding="utf-8")
    stem, name = args.slug.replace("-", "_"), "".join(map(str.capitalize, args.slug.split("-")))
    part = registry.parent / f"{stem}.py"
    module = ".".join(part.relative_to(root / "src").with_suffix("").parts)
    start = opening.search(text)
    assert start is not None
    words = {
        "slug": args.slug,
        "package": args.package,
        "name": name,
        "module": module,
        "promise": start[1],
        "home": ".".join(module.split(".")[:-1]),
    }
    files = {
        part: _filled("part.py.template", words),
        root / "src" / "tether" / "papers" / "cards" / f"{stem}.py": _filled("card.py.template", words),
        root / "tests" / "golden" / f"test_{stem}.py": _filled("golden.py.template", words),
    }
    for path in files:
        if path.exists():
            parser.error(f"{path} exists already; choose another slug or edit that file")
    for path, content in {**files, registry: _registered(text, start.end(), stem, name, module)}.items():
        path.write_text(content, encoding="utf-8")
        print(f"wrote {path.relative_to(root).as_posix()}")
    print(f"to come: tests/golden/vectors/{args.slug}.npz, docs/guides/{args.slug}.md, results/{args.slug}.json")


def _filled(template: str, words: dict[str, str]) -> str:
    return Template((HERE / template).read_text(encoding="utf-8")).substitute(words)


def _registered(text: str, start: int, key: str, name: str, module: str) -> str:
    """The mapping's file with the part as its last entry, imported in front of the first module that sorts later."""
    end = text.index("\n}", start - 1) + 1
    text = f'{text[:end]}    "{key}": {name},\n{text[end:]}'
    imports = list(re.finditer(r"^from (tether\.[\w.]+) import ", text, re.MULTILINE))
    at = next((found.start() for found in imports if found[1] > module), imports[-1].start())
    return f"{text[:at]}from {module} import {name}\n{text[at:]}"


if __name__ == "__main__":
    main()

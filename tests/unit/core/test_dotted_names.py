"""Every dotted name of the package in documents, settings, docstrings and text resolves: a codemod may miss one."""

import json
import pkgutil
import re
from pathlib import Path

import tether

ROOT = Path(__file__).parents[3]
FOLDERS = sorted(path.parent.name for path in Path(tether.__file__).parent.glob("*/__init__.py"))
WHOLE = re.compile(rf"(?<![\w./-])tether\.((?:{'|'.join(FOLDERS)})(?:\.[A-Za-z_]\w*)*)")
SHORT = re.compile(rf"``((?:{'|'.join(FOLDERS)})(?:\.[A-Za-z_]\w*)+)(?:\(\))?``")
GENERATED = ROOT / "docs/gen"
KINDS = (".md", ".toml", ".yaml", ".yml", ".py")
NO_NAMES = {
    "losses.py": "a file of other people's code",
    "optim.py": "a file of other people's code",
    "train.py": "a file of other people's code",
    "evaluate.source": "a setting",
    "losses.align_clip": "an old place, which core/moved.py tells of",
    "losses.AlignClipLoss": "an old place, which core/moved.py tells of",
}
OF_NOW = {path.stem for top in (ROOT / "src/tether", ROOT / "reproduction") for path in top.rglob("*")} - {
    "adapt",  # verbs, which were packages
    "compress",
    "generate",
    "train",
}
MOVED = json.loads((ROOT / "src/tether/core/moved.json").read_text(encoding="utf-8"))
OF_ONCE = sorted({part for old in MOVED for part in old.split(".")} - OF_NOW)
ONCE = re.compile(rf"(?<!`)`{{1,2}}((?:{'|'.join(OF_ONCE)})\.[A-Za-z_][\w.]*)[(`]")
NO_OLD_NAMES = {
    "train.py": "a file of other people's code",
    "compress.json": "a file",
    "gates.append": "a call on a list",
}


def test_every_dotted_name_resolves():
    unknown = []
    for path in _texts():
        text = path.read_text(encoding="utf-8")
        names = {*WHOLE.findall(text), *SHORT.findall(text)} - NO_NAMES.keys()
        unknown += [f"{path.relative_to(ROOT)}: tether.{name}" for name in sorted(names) if not _resolves(name)]
    assert unknown == []


def test_no_text_names_a_module_by_what_it_was_called_before_it_moved():
    found = []
    for path in _texts():
        if path.name != "CHANGELOG.md":
            names = {*ONCE.findall(path.read_text(encoding="utf-8"))} - NO_OLD_NAMES.keys()
            found += [f"{path.relative_to(ROOT)}: {name}" for name in sorted(names)]
    assert found == []


def _texts():
    for folder in ("src", "reproduction", "docs", "scripts", "benchmarks", "."):
        for path in sorted((ROOT / folder).glob("*" if folder == "." else "**/*")):
            if path.suffix in KINDS and path.is_file() and GENERATED not in path.parents:
                yield path


def _resolves(name: str) -> bool:
    try:
        pkgutil.resolve_name(f"tether.{name}")
    except (ImportError, AttributeError):
        return False
    return True

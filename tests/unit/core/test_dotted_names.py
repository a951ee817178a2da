"""Every dotted name of the package in documents, settings, docstrings and text resolves: a codemod may miss one."""

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


def test_every_dotted_name_resolves():
    unknown = []
    for folder in ("src", "reproduction", "docs", "scripts", "benchmarks", "."):
        for path in sorted((ROOT / folder).glob("*" if folder == "." else "**/*")):
            if path.suffix not in KINDS or not path.is_file() or GENERATED in path.parents:
                continue
            text = path.read_text(encoding="utf-8")
            names = {*WHOLE.findall(text), *SHORT.findall(text)} - NO_NAMES.keys()
            unknown += [f"{path.relative_to(ROOT)}: tether.{name}" for name in sorted(names) if not _resolves(name)]
    assert unknown == []


def _resolves(name: str) -> bool:
    try:
        pkgutil.resolve_name(f"tether.{name}")
    except (ImportError, AttributeError):
        return False
    return True

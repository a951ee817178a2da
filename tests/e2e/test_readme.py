"""The README's blocks run as they stand, in an empty environment, on photos of one's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 190, 60), "blue": (40, 60, 220), "yellow": (230, 220, 40)}


def _blocks(readme: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(sh|python)\n(.*?)^```", readme.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def _photos(folder: Path) -> None:
    """Forty noisy squares with what they show."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["file,caption"]
    for number in range(40):
        colour = list(COLOURS)[number % 4]
        pixels = np.asarray(COLOURS[colour]) + rng.normal(0, 20, (96, 96, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
        lines.append(f"{number}.jpg,a {colour} square number {number}")
    (folder / "captions.csv").write_text("\n".join(lines))


def test_the_blocks_are_commands_and_python(repository):
    (language, first), *others = _blocks(repository / "README.md")
    assert language == "sh"
    assert [kind for kind, _ in others] == ["python", "python"]
    commands = [line.partition("#")[0].split() for line in first.splitlines()]
    assert [command[:2] for command in commands] == [
        ["python3", "-m"],
        ["pip", "install"],
        ["tether", "train"],
        ["tether", "search"],
    ]


@pytest.mark.installs
def test_the_blocks_run_in_an_empty_environment(repository, tmp_path):
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(repository), str(clone)], check=True)
    readme = repository / "README.md"
    _photos(clone / "photos")
    Image.new("RGB", (64, 64), "orange").save(clone / "cat.jpg")
    shell = "".join(text for kind, text in _blocks(readme) if kind == "sh")
    python = "\n".join(text for kind, text in _blocks(readme) if kind == "python")
    (clone / "blocks.py").write_text(python)
    (clone / "bin").mkdir()
    (clone / "bin" / "python3").symlink_to(Path(sys.executable).resolve())
    kept = {
        name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f"{shell}\npython blocks.py"],
        cwd=clone,
        env=kept | {"PATH": f"{clone / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (clone / "found.html").stat().st_size > 10_000
    assert "chance" in done.stdout

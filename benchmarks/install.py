"""What an installation costs beside open_clip_torch and sentence-transformers: megabytes, seconds, first import.

Command: ``make dist``, then ``python benchmarks/install.py [--quick] [--with pip|uv] [--wheel FILE] [--folder OUT]``

Every package goes into fresh environments in turn, torch and torchvision first, which all of them need: ``shared`` is
what those take, ``own`` what the package adds. Downloads are cached by a round that does not count. Seconds are CPU
seconds (user and system) of the installer and of the interpreter, so another load on the machine changes them little.
``first use`` imports what a first line of code needs: ``tether.load`` and ``tether.embed``, which load with their first
use, the functions of open_clip, the class of sentence-transformers.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SHARED = ("torch", "torchvision")
USES = {
    "tether-clip": ("import tether", "import tether; tether.load; tether.embed"),
    "open_clip_torch": ("import open_clip", "from open_clip import create_model_from_pretrained, get_tokenizer"),
    "sentence-transformers": ("import sentence_transformers", "from sentence_transformers import SentenceTransformer"),
}
TIMED = 5


def cpu(command: list[str | Path]) -> float:
    """CPU seconds of a child and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        command,
        check=True,
        stdout=subprocess.DEVNULL,
        cwd=tempfile.gettempdir(),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def megabytes(environment: Path) -> float:
    """Of all files, each once however many links it has, without byte code, which comes with use."""
    sizes = {}
    for path in environment.rglob("*"):
        if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts:
            sizes[path] = path.stat().st_size
    return sum(sizes.values()) / 1e6


def installed(environment: Path, what: list[str], *, installer: str) -> float:
    """Install into an environment that is there; CPU seconds."""
    python = environment / "bin" / "python"
    if installer == "uv":
        return cpu(["uv", "pip", "install", "--quiet", "--python", python, *what])
    command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", *what]
    return cpu(command)


def fresh(folder: Path, name: str, *, spec: str, installer: str) -> dict[str, float]:
    """One package in a new environment."""
    environment = folder / name
    shutil.rmtree(environment, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    empty = megabytes(environment)
    shared = installed(environment, list(SHARED), installer=installer)
    torch = megabytes(environment)
    own = installed(environment, [spec], installer=installer)
    return {
        "shared MB": torch - empty,
        "own MB": megabytes(environment) - torch,
        "shared s": shared,
        "own s": own,
    }


def line(name: str, values: dict[str, list[float]], *, own: str = "tether-clip") -> str:
    """The figure of each package, and the ratios of the others to Tether's, with their spread over rounds."""
    said = [f"{package} {statistics.median(found):.2f}" for package, found in values.items()]
    for package, found in values.items():
        if package != own:
            ratios = [other / mine for other, mine in zip(found, values[own], strict=True)]
            middle = statistics.median(ratios)
            said.append(f"{package}/{own} {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return f"{name:18} " + "; ".join(said)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--wheel", type=Path, help="of Tether; by default the newest in dist/")
    parser.add_argument("--with", dest="installer", choices=["pip", "uv"], default="pip", help="what installs")
    parser.add_argument("--folder", type=Path, help="where the environments are left")
    parser.add_argument("--quick", action="store_true", help="one round of installing instead of three")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    given = parser.parse_args()
    wheels = sorted(Path("dist").glob("tether_clip-*.whl"), key=lambda path: path.stat().st_mtime)
    wheel = given.wheel or (wheels[-1] if wheels else None)
    if wheel is None:
        print("no wheel of Tether: make dist, or --wheel FILE")
        return
    folder = given.folder or Path(tempfile.mkdtemp())
    specs = {name: str(wheel.resolve()) if name == "tether-clip" else name for name in USES}
    costs: dict[str, dict[str, list[float]]] = {}
    for turn in range(1 if given.quick else 4):
        names = list(USES)[turn % 3 :] + list(USES)[: turn % 3]
        for name in names:
            found = fresh(folder, name, spec=specs[name], installer=given.installer)
            if turn or given.quick:  # the first round fills the caches
                for what, value in found.items():
                    costs.setdefault(what, {}).setdefault(name, []).append(value)
    for what, index in (("import s", 0), ("first use s", 1)):
        for turn in range(TIMED + 1):
            for name in list(USES)[turn % 3 :] + list(USES)[: turn % 3]:
                used = cpu([folder / name / "bin" / "python", "-c", USES[name][index]])
                if turn:  # the first compiles
                    costs.setdefault(what, {}).setdefault(name, []).append(used)
    for what, values in costs.items():
        print(line(what, {name: values[name] for name in USES}))
    if given.json:
        given.json.write_text(json.dumps(costs, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

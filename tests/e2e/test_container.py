"""The Dockerfile of ``tether serve``: no builder is here, so it is read, and what it starts is started without it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import tether
from serving import Server

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def instructions() -> list[tuple[str, str]]:
    """Each instruction and what follows it, lines that end with a backslash joined, comments left out."""
    lines = [line for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line[:1] != "#"]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def of(name: str) -> list[str]:
    return [rest for one, rest in instructions() if one == name]


def test_it_is_slim_needs_no_root_and_says_whether_it_lives():
    assert all(re.match(r"python:3\.\d+-slim( AS \w+)?$", one) for one in of("FROM"))
    assert of("USER")[-1].isdigit()
    assert int(of("USER")[-1]) > 0
    names = [name for name, _ in instructions()]
    assert names.index("USER") > max(place for place, name in enumerate(names) if name == "RUN")
    assert all("--no-cache-dir" in one for one in of("RUN") if "pip install" in one)


def test_it_copies_what_is_there_and_not_ignored():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"}
    wanted = [name for one in of("COPY") for name in one.split()[:-1]]
    assert wanted
    assert set(wanted) == kept
    assert all((ROOT / name).exists() for name in wanted)


def test_its_ranges_and_extras_are_those_of_the_project():
    extras = next(one for one in of("ARG") if one.startswith("EXTRAS=")).partition("=")[2].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    for name in ("torch", "torchvision"):
        lower = next(one for one in PROJECT["dependencies"] if one.startswith(f"{name}>="))
        assert any(f'"{lower},<' in one for one in of("RUN")), name


@pytest.mark.skipif(sys.platform == "win32", reason="modes of files")
def test_what_it_starts_answers_its_own_health_check(tmp_path):
    """The same arguments, the model's folder read-only as it is mounted; only the port and the address are others."""
    model = tmp_path / "model"
    tether.save(tether.load("tiny", random_weights=True), model)
    for path in [*model.rglob("*"), model]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = sorted((path.name, path.stat().st_mtime_ns) for path in model.rglob("*"))
    command = json.loads(of("ENTRYPOINT")[0]) + json.loads(of("CMD")[-1])
    assert command[:5] == ["tether", "serve", "/model", "--host", "0.0.0.0"]
    port = command[command.index("--port") + 1]
    check = json.loads(of("HEALTHCHECK")[0].partition("CMD ")[2])
    assert of("EXPOSE") == [port]
    assert f":{port}/health" in check[-1]
    server = Server(tmp_path, *command[7:], model=str(model), port="0")
    try:
        asked = [sys.executable, *check[1:-1], check[-1].replace(f":{port}/", f":{server.port}/")]
        assert subprocess.run(asked, check=False).returncode == 0
        server.process.terminate()
        assert server.process.wait(60) in (0, 143)
        assert subprocess.run(asked, check=False, capture_output=True).returncode != 0
    finally:
        server.process.kill()
        server.process.wait()
    assert sorted((path.name, path.stat().st_mtime_ns) for path in model.rglob("*")) == before

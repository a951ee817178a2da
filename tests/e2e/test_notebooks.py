"""The notebooks of the site run from top to bottom, as a reader would run them, and show what they promise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore")  # those of the kernel
@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_notebook_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in {"OMP_NUM_THREADS": "1", "IPYTHONDIR": "ipython", "JUPYTER_RUNTIME_DIR": "runtime"}.items():
        monkeypatch.setenv(name, str(tmp_path / value) if value.isalpha() else value)
    monkeypatch.setenv("TETHER_CACHE", str(tmp_path / "cache"))
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(tmp_path)}}
    done = nbclient.NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    shown = [kind for cell in done.cells for one in cell.get("outputs", ()) for kind in one.get("data", {})]
    assert {"text/html", "image/png"} <= set(shown)
    summary = json.loads((tmp_path / "runs" / "first" / "summary.json").read_text(encoding="utf-8"))
    assert summary["text_to_image_r10"] > 0.4  # chance 0.16

"""How Sphinx builds the site: ``make docs``, or ``sphinx-build -W -b html docs docs/_build/html``."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

project = "Tether"
author = "The Tether developers"
copyright = "The Tether developers"
_version = re.search(r'__version__ = "([^"]+)"', (ROOT / "src/tether/__init__.py").read_text(encoding="utf-8"))
if _version is None:
    raise RuntimeError("src/tether/__init__.py: no __version__")
version = release = _version[1]

extensions = ["myst_nb"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
# The notebook is committed without outputs and runs while the site is built.
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True
html_extra_path = ["_gallery/site"]  # what docs/gallery.py made
exclude_patterns = ["_build", "_gallery/site"]
nitpicky = True

html_theme = "furo"
html_title = f"Tether {release}"
html_static_path: list[str] = []
pygments_style = "friendly"
pygments_dark_style = "monokai"

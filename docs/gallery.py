"""The pages that verbs write, made from small runs for the site's gallery: ``make docs`` calls it before Sphinx.

Command: ``python docs/gallery.py``. It draws coloured shapes, trains a tiny model on them for some twenty seconds, lets
each verb write its page, and takes a screenshot of it in Chromium. Without Chromium the gallery has the pages and no
screenshots. Nothing of it is committed; what is there already is kept, ``--fresh`` makes it again.
"""

from __future__ import annotations

import argparse
import csv
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

OUT = Path(__file__).parent / "_gallery"
CORNERS = {"circle": 60, "triangle": 3, "square": 4}
COLOURS = ["red", "green", "blue", "orange"]
TRAINED = ["size=tiny", "steps=400", "batch_size=64", "evaluate.every=100", "save_every=400"]

# Its name; the verb's arguments; its page below the folder it ran in; title and guide.
_SEARCH = 'search shapes "a large red circle" "a small blue square" --model run --top 8 --html found.html'
_MASKS = 'segment few --classes "a red circle,a blue square,white" --model run --out masks --html masks.html'
PAGES = {
    "report": ("report run", "run/report.html", "Report of a run", "evaluation"),
    "found": (_SEARCH, "found.html", "Search by words", "search"),
    "health": (
        "inspect run --pairs split:source=shapes,part=held_out --out health",
        "health/inspect.html",
        "Health report",
        "inspection",
    ),
    "audit": ("audit shapes --label colour --model run --out audit", "audit/audit.html", "Wrong labels", "labels"),
    "datasheet": ("curate shapes --recipe curate --out curated", "curated/datasheet.html", "Data sheet", "curation"),
    "adapted": (
        "adapt run shapes --label colour --recipe probe --out head",
        "head/report.html",
        "What adapting changed",
        "adaptation",
    ),
    "order": (
        'rank shapes --by "a large circle" --model run --out order.csv --html order.html',
        "order.html",
        "Images in an order",
        "ranking",
    ),
    "masks": (_MASKS, "masks.html", "Masks from words", "segmentation"),
    "defects": ("detect few --good good --model run --out defects", "defects/index.html", "Defects", "defects"),
}


def draw(folder: Path, *, rows: int, seed: int, wrong: float = 0.0) -> None:
    """Coloured shapes with captions and two columns of classes, of which some colours may be wrong."""
    folder.mkdir()
    dice = random.Random(seed)
    with (folder / "captions.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file", "caption", "shape", "colour"])
        for number in range(rows):
            shape, colour, size = dice.choice(list(CORNERS)), dice.choice(COLOURS), dice.choice(["small", "large"])
            radius = dice.randint(6, 9) if size == "small" else dice.randint(13, 16)
            place = dice.randint(radius, 64 - radius), dice.randint(radius, 64 - radius)
            image = Image.new("RGB", (64, 64), "white")
            ImageDraw.Draw(image).regular_polygon((*place, radius), CORNERS[shape], fill=colour)
            image.save(folder / f"{number:03}.png")
            said = dice.choice(COLOURS) if dice.random() < wrong else colour
            table.writerow([f"{number:03}.png", f"a {size} {colour} {shape}", shape, said])


def screenshot(page: Path, out: Path, *, browser: str) -> None:
    """A page as it looks at 1,100 pixels, half as large."""
    with tempfile.TemporaryDirectory() as home:
        shot = Path(home) / "shot.png"
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={home}/profile",
        ]
        subprocess.run(
            [browser, *options, "--window-size=1100,800", f"--screenshot={shot}", page.resolve().as_uri()],
            check=True,
            capture_output=True,
            timeout=300,
        )
        with Image.open(shot) as image:
            image.convert("RGB").resize((550, 400), Image.Resampling.LANCZOS).save(out, optimize=True)


def make(out: Path) -> None:
    """Runs, pages, screenshots and the gallery's own page, in a folder that appears whole."""
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as name:
        work, new = Path(name), Path(name) / "new"
        (new / "site" / "pages").mkdir(parents=True)
        draw(work / "shapes", rows=600, seed=0, wrong=0.04)
        draw(work / "few", rows=12, seed=1)
        draw(work / "good", rows=24, seed=2)

        def tether(arguments: list[str]) -> None:
            done = subprocess.run(
                [sys.executable, "-m", "tether", *arguments], cwd=work, capture_output=True, text=True, check=False
            )
            if done.returncode:
                sys.exit(f"docs/gallery.py: tether {shlex.join(arguments)}: {done.stderr[-2000:]}")

        tether(["train", "shapes", "--recipe", "demo", "--out", "run", *TRAINED])
        cards = []
        for slug, (command, page, title, guide) in PAGES.items():
            tether(shlex.split(command))
            shutil.copy(work / page, new / "site" / "pages" / f"{slug}.html")
            shown = "the page"
            if browser:
                screenshot(work / page, new / "site" / "pages" / f"{slug}.png", browser=browser)
                shown = f'<img src="../pages/{slug}.png" alt="{title}" width="550" height="400" loading="lazy">'
            link = f'<p><a href="../pages/{slug}.html">{shown}</a></p>'
            cards.append(f"## {title}\n\n{link}\n\n`tether {command}` ([guide](../guides/{guide}.md))\n")
        (new / "index.md").write_text(HEAD + "\n".join(cards), encoding="utf-8")
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(new, out)


HEAD = """# Gallery

Pages that verbs write, each one file that opens anywhere. These were made when the site was: a tiny model, trained for
some twenty seconds on 600 drawn shapes with a few wrong labels, so look at the pages and not at the figures.

"""


def main() -> None:
    """Make the gallery where there is none."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fresh", action="store_true", help="make it again")
    if parser.parse_args().fresh or not (OUT / "index.md").is_file():
        make(OUT)


if __name__ == "__main__":
    main()

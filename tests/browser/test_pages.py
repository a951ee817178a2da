"""The report and the search gallery in a real browser: their scripts run, nothing is logged, what matters is there."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from tether.core.anomaly_map import AnomalyMap
from tether.core.masks import Masks
from tether.core.types import Block, Features, ImageSpec, Row
from tether.evaluate import report
from tether.evaluate.inspect import PROBES
from tether.evaluate.inspect.runner import inspect_model
from tether.tasks.anomaly.gallery import gallery as defect_gallery
from tether.tasks.anomaly.gallery import shown_defect
from tether.tasks.retrieve.gallery import gallery
from tether.tasks.retrieve.search import Hit
from tether.tasks.segment.gallery import gallery as mask_gallery
from tether.tasks.segment.gallery import shown_masks

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH")
NAMES = ("red", "green", "blue")
# Appended to a page: uses it as a reader would and writes down what came of it.
PROBE = """
<script>
{actions}
const width = document.documentElement.scrollWidth > document.documentElement.clientWidth ? "too wide" : "fits";
const probe = Object.assign(document.createElement("div"), {{id: "probe", textContent: `${{said}} ${{width}}`}});
document.body.append(probe);
</script>
"""


class Colours:
    """Sees the mean colour of a picture and reads the number of a colour."""

    dim = 3
    image_spec = ImageSpec((8, 8))
    logit_scale = torch.tensor(10.0)
    logit_bias = None

    def tokenizer(self, texts):
        return torch.tensor([[1 + next((i for i, name in enumerate(NAMES) if name in text), 0)] for text in texts])

    def encode_image(self, image, *, mask=None):
        return Features(image.float().mean(dim=(2, 3)) + 1)

    def encode_text(self, text, *, mask=None):
        return Features(torch.eye(3)[text[:, 0] - 1] + 0.01)


class Source:
    name, version = "colours", "1"

    def __init__(self, rows):
        self.rows = rows

    def blocks(self):
        return [Block("0", len(self.rows))]

    def read(self, block, *, start=0):
        return iter(self.rows[start:])


def pictures(count):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 90, (count, 16, 16, 3), dtype=np.uint8)
    for number, one in enumerate(pixels):
        one[..., number % 3] = 200 if number % 5 else 20
    return pixels


def opened(path: Path, profile: Path, *, actions: str, width: int = 390) -> str:
    """The page's document after its scripts and ``actions`` ran, in a window as wide as a phone."""
    page = path.read_text(encoding="utf-8")
    tried = path.with_name("probed.html")
    tried.write_text(page.replace("</body>", PROBE.format(actions=actions) + "</body>"), encoding="utf-8")
    # A headless window is never narrower than 500 pixels, so the phone is a frame of its own.
    frame = path.with_name("frame.html")
    frame.write_text(
        f'<!doctype html><iframe src="probed.html" style="width:{width}px;height:900px"></iframe><script>\n'
        "onload = () => document.body.append(document.querySelector('iframe').contentDocument.documentElement);\n"
        "</script>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            str(CHROMIUM),
            *("--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0"),
            *("--allow-file-access-from-files", f"--user-data-dir={profile}", "--dump-dom", frame.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    return done.stdout


def test_report_runs_in_a_browser(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    lines = [
        {"step": s, "loss": 5 / (s + 1), "grad_norm": 2.0 + s % 3, "grad_threshold": 1.5, "grad_scale": 0.5, "lr": 5e-4}
        for s in range(30)
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "config.yaml").write_text("batch_size: 8\n")
    (run / "summary.json").write_text(json.dumps({"steps": 30, "skipped": 0, "seconds": 156.0}))
    rows = [
        Row(f"row {i}", pixels, (f"a {NAMES[i % 3]} thing",), {"label": NAMES[i % 3]})
        for i, pixels in enumerate(pictures(30))
    ]
    page = report.write(run, model=Colours(), source=Source(rows), bootstrap=10)
    actions = """
    document.getElementById("theme").click();
    const plot = document.querySelector(".plot");
    plot.dispatchEvent(new PointerEvent("pointermove", {clientX: plot.getBoundingClientRect().left + 1}));
    document.querySelector(".chips button").click();
    const away = document.querySelectorAll(".map .away").length;
    const said = [document.documentElement.dataset.theme, plot.querySelector("output").textContent.split("\\n")[0],
      away, document.querySelectorAll(".plot svg path.main").length].join();
    """
    dom = opened(page, tmp_path / "profile", actions=actions)
    assert re.search(r'id="probe">(dark|light),step 0,20,3 fits<', dom)
    for part in ('id="training"', 'id="retrieval"', 'id="zero-shot"', 'id="map"', 'id="numbers"', 'id="run"'):
        assert part in dom
    assert "2.6 min" in dom
    assert "held-out pictures" not in dom  # the caller chose the source; nothing says that it was held out


def test_gallery_runs_in_a_browser(tmp_path):
    hits = [
        Hit(f"row {i}", 0.9 - i / 100, (f"thing <{i}>",), pixels, {"group": NAMES[i % 3]})
        for i, pixels in enumerate(pictures(10))
    ]
    page = gallery(dict.fromkeys((*NAMES, "a & b"), hits), tmp_path / "gallery.html", title="Found")
    actions = """
    document.querySelectorAll("button.hit")[3].click();
    const shown = dialog.open;
    const first = dialog.querySelector("dd").textContent;
    dialog.querySelector("dl").click();
    const stays = dialog.open;
    dialog.querySelector("form button").click();
    filter.value = "GREEN"; filter.dispatchEvent(new Event("input"));
    const visible = [...document.querySelectorAll("section")].filter(one => !one.hidden).length;
    const said = [shown, first, stays, dialog.open, visible].join();
    """
    dom = opened(page, tmp_path / "profile", actions=actions)
    assert 'id="probe">true,0.8700,true,false,1 fits<' in dom
    assert dom.count('<button class="hit') == 40
    assert dom.count('src="data:image/jpeg;base64,') >= 40


def test_words_of_a_tall_image_are_seen(tmp_path):
    tall, wide = np.zeros((90, 20, 3), dtype=np.uint8), np.zeros((20, 90, 3), dtype=np.uint8)
    hits = [Hit(f"p{number}", 0.5, ("a tower",), pixels) for number, pixels in enumerate((tall, wide))]
    page = gallery({"red": hits}, tmp_path / "gallery.html")
    actions = """
const inside = [...document.querySelectorAll("button.hit")].map(card => {
  const words = card.querySelector(".words").getBoundingClientRect();
  return words.height > 9 && words.bottom <= card.getBoundingClientRect().bottom + 1;
});
const heights = [...document.querySelectorAll(".image")].map(one => Math.round(one.getBoundingClientRect().height));
const said = `${inside} ${heights[0] === heights[1]}`;"""
    assert 'id="probe">true,true true fits<' in opened(page, tmp_path / "profile", actions=actions)


def test_health_report_runs_in_a_browser(tmp_path):
    rows = [
        Row(f"row {i}", pixels, (f"a {NAMES[i % 3]} thing number {i}",), {"label": NAMES[i % 3]})
        for i, pixels in enumerate(pictures(60))
    ]
    found = inspect_model(Colours(), Source(rows), out=tmp_path / "out", model_name="colours")
    actions = """
    document.getElementById("theme").click();
    const wide = [...document.querySelectorAll(".card, .sentence, .after")]
      .filter(one => one.getBoundingClientRect().right > document.documentElement.clientWidth + 1).length;
    const said = [document.documentElement.dataset.theme, document.querySelectorAll("section.probe").length,
      document.querySelectorAll(".bar").length > 5, wide].join();
    """
    dom = opened(found.page, tmp_path / "profile", actions=actions)
    assert re.search(rf'id="probe">(dark|light),{len(PROBES)},true,0 fits<', dom)
    assert "could not be made" in dom  # a model that shows no tower has no heads


def test_masks_run_in_a_browser(tmp_path):
    labels = np.zeros((20, 30), dtype=np.uint8)
    labels[5:15, 5:25], labels[:2] = 1, 2
    masks = Masks(("road", "a <car> with a long name", "background"), labels)
    image = torch.from_numpy(pictures(1)[0]).permute(2, 0, 1).repeat(1, 2, 2)[:, :20, :30]
    shown = [shown_masks(f"<{number}>.jpg", image, masks, truth=labels * 0) for number in range(3)]
    page = mask_gallery(
        shown,
        tmp_path / "seg.html",
        like=masks,
        areas=masks.areas(),
        figures=[("Mean IoU", "40.0%", "95 %: 30.0 to 50.0")],
        bars=[("road", 0.4, (0.3, 0.5))],
    )
    actions = """
    const said = "";
    addEventListener("load", () => {  // images of the page are painted when they are there
    const context = layer => document.querySelector(`canvas.${layer}`).getContext("2d");
    const at = (layer, x, y) => [...context(layer).getImageData(x, y, 1, 1).data].join(".");
    const before = [at("mask", 15, 10), at("mask", 15, 0), at("truth", 15, 10), at("mask", 15, 4)];
    document.querySelector(".legend button").click();
    const alone = [at("mask", 15, 10), at("mask", 15, 18)];
    document.querySelector('[data-view="truths"]').click();
    document.querySelector(".frame").click();
    const frame = document.querySelectorAll(".frame")[1], box = frame.getBoundingClientRect();
    frame.dispatchEvent(new MouseEvent("mousemove", {clientX: box.left + 5, clientY: box.top + 5}));
    const found = [...before, ...alone, document.querySelectorAll("figure.wide").length,
      document.body.className, frame.querySelector("output").textContent].join();
    probe.textContent = found + (document.documentElement.scrollWidth > 390 ? " too wide" : " fits");
    });
    """
    dom = opened(page, tmp_path / "profile", actions=actions)
    expected = "86.180.233.255,0.0.0.0,230.159.0.255,255.255.255.255,0.0.0.0,230.159.0.255,1,solo truths,road"
    assert f'id="probe">{expected} fits<' in dom


def test_defects_under_their_maps(tmp_path):
    image = torch.from_numpy(pictures(1)[0]).permute(2, 0, 1).repeat(1, 2, 2)[:, :20, :30]
    values = np.array([[0.1, 0.1], [0.1, 0.6]], dtype=np.float32)
    shown = [
        shown_defect(f"<{score}>.jpg", image, AnomalyMap(score, values, (20, 30)), truth=np.eye(20, 30) > 0)
        for score in (0.6, 0.2)
    ]
    page = defect_gallery(shown, tmp_path / "index.html", span=(0.1, 0.6), threshold=0.3, title="Defects: <tile>")
    actions = """
    document.querySelector(".frame").click();
    document.getElementById("truth").click();
    const said = [document.querySelectorAll("figure.alarm").length, document.querySelectorAll("figure.wide").length,
      document.body.className, getComputedStyle(document.querySelector(".truth")).opacity,
      [...document.querySelectorAll(".said")].map(one => one.textContent).join("+"),
      document.querySelector("figcaption b").textContent, document.querySelector(".bar u").style.left].join();
    """
    dom = opened(page, tmp_path / "profile", actions=actions)
    assert 'id="probe">1,1,bare,0,defect+good,&lt;0.6&gt;.jpg,50% fits<' in dom

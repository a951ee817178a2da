"""The health report: whole, resumable, and honest where a section cannot tell."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch

from tether.core.errors import InputError
from tether.core.finding import Bar, Bars, Cloud, Curve, Figure, Finding, Gallery, Item
from tether.core.types import Block, Features, ImageSpec, Row
from tether.data import open_source
from tether.data.lettering.on_images import STYLES, write
from tether.evaluate.inspect import PROBES
from tether.evaluate.inspect.above_chance import Recall, recalls
from tether.evaluate.inspect.intervals import share
from tether.evaluate.inspect.page import steps
from tether.evaluate.inspect.pairing import pair_up
from tether.evaluate.inspect.runner import inspect_model

from encoders import ENCODERS  # isort: skip - a neighbour
from families import FAMILIES

pytestmark = pytest.mark.slow

WIDTH = 16
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 60, 220), "black": (10, 10, 10)}
NOUNS = ("star", "ring", "cross")


class Stub:
    """Sees a mean colour and reads colour words, through one fixed projection; no weights, no tokens."""

    dim = WIDTH
    image_spec = ImageSpec((16, 16))
    logit_scale = torch.tensor(10.0)
    logit_bias = None

    def __init__(self, *, spoilt: str = "") -> None:
        self.spoilt = spoilt
        self.seen = 0
        self.project = torch.randn(3, WIDTH, generator=torch.Generator().manual_seed(0))

    class tokenizer:  # noqa: N801 - stands for an instance
        context_length, vocab_size = 77, 6

        def __new__(cls, texts: Sequence[str]) -> torch.Tensor:
            names = list(COLOURS)
            return torch.tensor([[1 + next((i for i, n in enumerate(names) if n in text), 3)] for text in texts])

    def encode_image(self, image: torch.Tensor, *, mask=None) -> Features:
        self.seen += len(image)
        rows = image.float().mean(dim=(2, 3)) / 255 @ self.project
        if self.spoilt == "equal":
            rows = torch.ones_like(rows)
        if self.spoilt == "some":  # the images of one shade
            rows = rows.where((image[:, 0, 0, 0] % 7 != 0)[:, None], torch.nan)
        if self.spoilt == "all":
            rows = rows * torch.nan
        return Features(rows)

    def encode_text(self, text: torch.Tensor, *, mask=None) -> Features:
        table = torch.tensor([*COLOURS.values(), (128, 128, 128)]) / 255 @ self.project
        if self.spoilt == "equal":
            table = torch.ones_like(table)
        return Features(table[text[:, 0] - 1])


class Coded(Stub):
    """Sees noise and, so strongly, the number in the caption, which is the row's."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.codes = torch.randn(200, WIDTH, generator=generator)
        self.noise = torch.randn(200, WIDTH, generator=generator)
        self.strength = strength

    class tokenizer:  # noqa: N801 - stands for an instance
        context_length, vocab_size = 77, 200

        def __new__(cls, texts: Sequence[str]) -> torch.Tensor:
            return torch.tensor([[1 + int(text.split()[-1])] for text in texts])

    def encode_image(self, image: torch.Tensor, *, mask=None) -> Features:
        start = self.seen
        self.seen += len(image)
        code, noise = (side[start : start + len(image)] for side in (self.codes, self.noise))
        return Features(noise + self.strength * code)

    def encode_text(self, text: torch.Tensor, *, mask=None) -> Features:
        return Features(self.codes[text[:, 0] - 1])


class Rows:
    name, version = "stub pairs", "1"

    def __init__(self, rows: Sequence[Row], *, known: bool = True, block: int = 40) -> None:
        self.rows, self.known, self.block = list(rows), known, block
        self.read_rows = 0

    def blocks(self) -> Sequence[Block]:
        starts = range(0, len(self.rows), self.block)
        return [Block(str(s), min(self.block, len(self.rows) - s) if self.known else None) for s in starts]

    def read(self, block: Block, *, start: int = 0) -> Iterator[Row]:
        for row in self.rows[int(block.id) : int(block.id) + self.block][start:]:
            self.read_rows += 1
            yield row


def rows(count: int, *, label: str | None = None) -> list[Row]:
    rng = np.random.default_rng(0)
    found = []
    for at in range(count):
        name, noun = list(COLOURS)[at % 4], NOUNS[at % 3]
        pixels = np.clip(np.array(COLOURS[name]) + rng.integers(-25, 25, (16, 16, 3)), 0, 255).astype(np.uint8)
        meta = {"label": label or noun, "side": "left" if rng.random() < 0.5 else "right"}
        found.append(Row(f"row {at}", pixels, (f"a {name} {noun} number {at}",), meta))
    return found


def test_report_is_whole_and_loads_nothing(tmp_path):
    steps = []
    report = inspect_model(
        Stub(), Rows(rows(120)), out=tmp_path, model_name="m & <m>", on_progress=lambda *step: steps.append(step)
    )
    assert {section.name for section in report.sections} == set(PROBES)
    page = report.page.read_text(encoding="utf-8")
    assert report.page.stat().st_size < 3_000_000
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)[^"']*""", page)
    assert not re.findall(r"https?://", page)
    assert "m &amp; &lt;m&gt;" in page
    for section in report.sections:
        assert f'<section id="{section.name}"' in page
        if section.finding is not None:
            assert section.finding.sentence.endswith(".")
            assert section.finding.figures
            assert section.finding.unsaid
    numbers = json.loads(report.numbers.read_text(encoding="utf-8"))
    assert [one["name"] for one in numbers["sections"]] == list(PROBES)
    assert numbers["images"] == 120
    assert steps[0][0] == "embedding the pairs"
    assert steps[-1][0] == "writing the page"


def test_a_model_without_access_loses_its_sections_only(tmp_path):
    report = inspect_model(Stub(), Rows(rows(120)), out=tmp_path)
    assert "Stub" in report.section("heads").problem
    assert report.section("retrieval").finding is not None
    assert "could not be made" in report.page.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("name", ENCODERS)
def test_models_of_every_library(tmp_path, name):
    (tmp_path / "model").mkdir()
    model = ENCODERS[name](tmp_path / "model")
    pairs = open_source("scenes:split=test,rows=120", where="test")
    less = {"towers": {"copies": 1}, "lettering": {"most": 20}, "order": {"couples": 20}, "wording": {"most": 40}}
    probes = [{"name": probe, **less.get(probe, {})} for probe in PROBES]
    report = inspect_model(model, pairs, out=tmp_path / "report", probes=probes)
    told = {section.name: section.problem for section in report.sections if section.finding is None}
    expected = {"shortcuts"} | ({"heads"} if name == "open_clip" else set())
    assert set(told) <= expected, told
    assert {"towers", "retrieval"} <= set(report.alarms)


@pytest.mark.filterwarnings("ignore")  # those of other libraries
@pytest.mark.parametrize("name", ["PE-Core", "EVA02", "SigLIP 2", "CoCa"])
def test_heads_of_the_families_that_people_load(tmp_path, name):
    (tmp_path / "model").mkdir()
    model = FAMILIES[name](tmp_path / "model").eval()
    pairs = open_source("scenes:split=test,rows=60", where="test")
    report = inspect_model(model, pairs, out=tmp_path / "report", probes=["heads"])
    finding = report.section("heads").finding
    assert finding is not None, report.section("heads").problem
    assert all(0 <= figure.value <= 1 for figure in finding.figures)


def test_finished_work_is_not_done_again(tmp_path):
    source, model = Rows(rows(120)), Stub()
    first = inspect_model(model, source, out=tmp_path)
    read, seen = source.read_rows, model.seen
    again = inspect_model(model, source, out=tmp_path)
    assert [s.finding for s in again.sections] == [s.finding for s in first.sections]
    assert source.read_rows == read + 1  # the first row alone, to see that the source is the same
    assert model.seen == seen
    other = inspect_model(model, source, out=tmp_path, probes=[{"name": "dimensions", "dead": 0.5}])
    assert len(other.sections) == 1
    kept = next((tmp_path / "kept").iterdir())
    (kept / "dimensions.json").write_text("{}")
    assert inspect_model(model, source, out=tmp_path, probes=["dimensions"]).section("dimensions").finding is not None


def test_another_source_of_the_same_name_is_not_mistaken(tmp_path):
    inspect_model(Stub(), Rows(rows(60)), out=tmp_path, probes=["about"])
    changed = [Row(row.key, row.image, ("a green thing",), row.meta) for row in rows(60)]
    report = inspect_model(Stub(), Rows(changed), out=tmp_path, probes=["duplicates"])
    assert report.section("duplicates").finding.figure("different captions").value == 1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_handful_of_pairs(tmp_path, count):
    report = inspect_model(Stub(), Rows(rows(count)), out=tmp_path)
    assert report.rows == count
    assert report.alarms == ()
    assert all(section.finding is not None or section.problem for section in report.sections)
    assert report.section("about").finding is not None


def test_equal_embeddings(tmp_path):
    report = inspect_model(Stub(spoilt="equal"), Rows(rows(120)), out=tmp_path)
    assert "dimensions" in report.alarms
    assert "retrieval" in report.alarms
    assert "all image embeddings" in report.section("dimensions").finding.sentence.lower()
    assert report.section("likelihood").finding is None
    assert "image" in report.section("likelihood").problem


@pytest.mark.parametrize("strength", [0.0, 0.12, 3.0])
def test_what_presupposes_a_working_model_is_said_of_one_alone(tmp_path, strength):
    """At 0.12 a pair beats 60 % of the others, and hardly one is found first."""
    pairs = Rows([Row(row.key, row.image, row.texts) for row in rows(120)])
    report = inspect_model(Coded(strength), pairs, out=tmp_path, probes=["retrieval", "gap", "likelihood"])
    told = {section.name: section.level for section in report.sections}
    if strength == 3.0:
        assert (told["retrieval"], told["gap"]) == ("good", "good")
        return
    assert told == {"retrieval": "alarm", "gap": "unknown", "likelihood": "unknown"}
    finding = report.section("gap").finding
    assert "Could not tell" in finding.sentence
    assert "not clearly above chance: text to image R@1" in finding.sentence
    assert finding.figures, "the figures remain"
    apart = report.section("retrieval").finding.figure("share of wrong answers that a pair beats (chance 50 %)")
    assert (apart.value > 0.55) == (strength > 0)


def test_an_interval_holds_for_captions_that_stand_or_fall_together():
    image = torch.nn.functional.normalize(torch.randn(60, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    owner = torch.arange(60).repeat_interleave(5)
    text = torch.where((owner % 2 == 0)[:, None], image[owner], -image[owner])  # all of an image's, or none
    pairing = pair_up(image, text, owner=owner, captions=[f"caption {at}" for at in range(300)])
    found = recalls(pairing, images=60, k=(1,))[0]
    queries = share("recall", pairing.text_ranks <= 1)
    assert found.figure.value == queries.value == 0.5
    assert found.figure.high - found.figure.low > 1.8 * (queries.high - queries.low)
    assert found.clear
    assert not Recall("text to image", 1, share("recall", torch.zeros(60, dtype=torch.bool)), 1 / 60).clear


def test_rank_deficient_embeddings(tmp_path):
    """Three colours reach 16 dimensions, so the covariance has rank 3."""
    report = inspect_model(Stub(), Rows(rows(120)), out=tmp_path, probes=["likelihood", "dimensions", "common"])
    assert all(section.finding is not None for section in report.sections), [s.problem for s in report.sections]
    assert report.section("dimensions").finding.figures[0].value < 3.01


def test_embeddings_that_are_not_finite(tmp_path):
    report = inspect_model(Stub(spoilt="some"), Rows(rows(120)), out=tmp_path, batch_size=16)
    assert report.alarms[:1] == ("about",)
    lost = report.section("about").finding.figure("embeddings left out because they were not finite").value
    assert 0 < lost == 120 - report.rows
    assert report.section("retrieval").finding is not None
    with pytest.raises(InputError, match="embeddings are not finite; the weights"):
        inspect_model(Stub(spoilt="all"), Rows(rows(120)), out=tmp_path / "all")


def test_one_class_is_said_and_not_scored(tmp_path):
    report = inspect_model(Stub(), Rows(rows(60, label="thing")), out=tmp_path, probes=["retrieval"])
    finding = report.section("retrieval").finding
    assert "one class 'thing'" in finding.sentence
    assert not [figure for figure in finding.figures if "zero-shot" in figure.name]


def test_what_cannot_be_inspected_is_refused(tmp_path):
    with pytest.raises(InputError, match="empty"):
        inspect_model(Stub(), Rows([]), out=tmp_path)
    with pytest.raises(InputError, match=r"unknown part 'heds'.*heads"):
        inspect_model(Stub(), Rows(rows(4)), out=tmp_path, probes=["heds"])
    with pytest.raises(InputError, match="no 'colour'"):
        inspect_model(Stub(), Rows(rows(4)), out=tmp_path, label="colour")
    with pytest.raises(InputError, match="limit"):
        inspect_model(Stub(), Rows(rows(4)), out=tmp_path, limit=0)


def test_images_without_captions(tmp_path):
    bare = [Row(row.key, row.image, (), {}) for row in rows(40)]
    report = inspect_model(Stub(), Rows(bare), out=tmp_path)
    assert report.section("retrieval").finding is None
    assert report.section("dimensions").finding is not None
    assert report.section("duplicates").finding is not None


def test_a_section_that_breaks_costs_only_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("tether.evaluate.inspect.modality_gap.modality_gap", lambda *_: 1 / 0)
    report = inspect_model(Stub(), Rows(rows(60)), out=tmp_path, probes=["gap", "common"])
    assert "ZeroDivisionError" in report.section("gap").problem
    assert report.section("common").finding is not None


class Counts:
    """A section of the user's own."""

    title = "How many"

    def __call__(self, subject):
        return Finding("Counted.", "good", (Figure("images", len(subject.seen.image), unit="count"),), (), "Much.")


def test_a_probe_of_ones_own(tmp_path):
    report = inspect_model(Stub(), Rows(rows(60)), out=tmp_path, probes=["about", Counts()])
    assert report.section("counts").finding.figure("images").value == 60
    assert "How many" in report.page.read_text(encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Slotted:
    """A section without a ``__dict__``."""

    most: int
    title: ClassVar[str] = "At most"

    def __call__(self, subject):
        return Finding("Counted.", "good", (Figure("most", min(self.most, len(subject.image))),), (), "Much.")


def test_a_probe_with_slots(tmp_path):
    for most in (3, 5):
        report = inspect_model(Stub(), Rows(rows(60)), out=tmp_path, probes=[Slotted(most)])
        assert report.section("slotted").finding.figure("most").value == most


def test_findings_survive_json():
    finding = Finding(
        "It is so.",
        "note",
        (Figure("a", 0.5, 0.4, 0.6, "share"), Figure("b", 3.0)),
        (
            Gallery("g", (Item(3, "t"), Item(None, "u", "n", "data:,"))),
            Bars("b", (Bar("x", 1.0, 0.5, 1.5, True),), "number", 0.2, "chance"),
            Curve("c", (1.0, 2.0), "x", (1,)),
            Cloud("d", ((1.0, 2.0),), ()),
        ),
        "unsaid",
        "tether eval",
    )
    assert Finding.from_dict(json.loads(json.dumps(finding.to_dict()))) == finding
    with pytest.raises(InputError, match="level"):
        Finding("x", "grave")  # pyrefly: ignore
    with pytest.raises(InputError, match="not a finding"):
        Finding.from_dict({"sentence": "x"})
    with pytest.raises(InputError, match="there are: a, b"):
        finding.figure("z")


def test_commands_can_be_pasted(tmp_path):
    """Paths with blanks, quotes and semicolons come back whole, and what was asked stays asked."""
    out, model, pairs = tmp_path / "o", "my runs/it's; mine", "photos of 2024/{0..3}.tar"
    report = inspect_model(
        Stub(),
        Rows(rows(60)),
        out=out,
        model_name=model,
        source_name=pairs,
        probes=["about", "retrieval"],
        limit=50,
        label="side",
        seed=3,
        strict=True,
    )
    told = ["--label", "side", "--limit", "50", "--strict"]
    for name in ("about", "retrieval"):
        assert shlex.split(report.section(name).finding.command) == ["tether", "eval", model, pairs, *told]
    page = report.page.read_text(encoding="utf-8")
    typed = ["--probe", "about", "--probe", "retrieval", *told, "--seed", "3"]
    written = html.unescape(re.findall(r"<footer>Written by <code>(.*?)</code>", page)[0])
    assert shlex.split(written) == ["tether", "inspect", model, "--pairs", pairs, *typed]
    other = inspect_model(Stub(), Rows(rows(60)), out=out, model_name="m", source_name="p", probes=["about"])
    assert other.section("about").finding.command == "tether eval m p"
    assert other.command == "tether inspect m --pairs p --probe about"
    assert steps("tether eval 'a; b' c; look at it; tether curate --help") == [
        "tether eval 'a; b' c",
        "look at it",
        "tether curate --help",
    ]


def test_equal_images_are_counted_however_near_all_embeddings_are(tmp_path, monkeypatch):
    """With embeddings that are all equal the nearest pairs are any pairs; copies are found all the same."""
    monkeypatch.setattr("tether.evaluate.inspect.duplicates._MOST_COMPARED", 5)
    some = rows(60)
    some += [Row(f"again {at}", some[at].image, some[at].texts, some[at].meta) for at in (3, 17, 17, 40)]
    some = [Row(f"{at}", row.image, row.texts, row.meta) for at, row in enumerate(some)]
    finding = inspect_model(Stub(spoilt="equal"), Rows(some), out=tmp_path, probes=["duplicates"]).sections[0].finding
    assert finding.sentence.startswith("At least 7 of 64 images have a near-duplicate here (4 could go)")
    assert finding.figure("pairs of equal images (at least)").value == 5
    assert "there may be more" in finding.unsaid
    monkeypatch.setattr("tether.evaluate.inspect.duplicates._MOST_COMPARED", 4000)
    finding = (
        inspect_model(Stub(spoilt="equal"), Rows(some), out=tmp_path / "all", probes=["duplicates"]).sections[0].finding
    )
    assert finding.sentence.startswith("7 of 64 images")
    assert finding.figure("pairs of equal images").value == 5
    assert "there may be more" not in finding.unsaid


def test_near_copies_of_copies_are_counted_with_them(tmp_path):
    some = rows(40)
    near = [row.image.copy() for row in some[:2]]
    near[0][0, 0] += 3
    some += [Row("copy", some[0].image, (), some[0].meta), Row("near", near[0], (), some[0].meta)]
    finding = inspect_model(Stub(), Rows(some), out=tmp_path, probes=["duplicates"]).sections[0].finding
    assert finding.figure("pairs of equal images").value == 3
    assert finding.figure("images in groups of nearly equal ones").value == 3
    assert finding.figure("of these, to spare").value == 2


def test_words_are_chosen_and_judged_at_both_edges(tmp_path, monkeypatch):
    """The half of the images by which words are chosen has as many words at the top as the half that judges them."""
    edges = []

    def noted(image, word, *, style, edge):
        edges.append(edge)
        return write(image, word, style=style, edge=edge)

    monkeypatch.setattr("tether.evaluate.inspect.typographic.write", noted)
    report = inspect_model(Stub(), Rows(rows(120)), out=tmp_path, probes=["lettering"])
    assert report.section("lettering").finding is not None
    count = len(edges) // 2 // len(STYLES)
    for half in (edges[:count:2], edges[1:count:2]):
        assert abs(half.count("top") - half.count("bottom")) <= 1

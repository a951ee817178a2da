"""Retrieval, zero-shot, CLIPScore and search ask the model what it compares with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.geometry import COSINE, GEOMETRIES, Geometry
from tether.core.types import Features, Row
from tether.data import open_source
from tether.evaluate import RetrievalRecall, evaluate, recall_at_k
from tether.evaluate.clip_score import clip_score
from tether.evaluate.embeddings import Embedded, embed_source
from tether.evaluate.inspect.pairing import beaten, pair_up
from tether.evaluate.inspect.runner import inspect_model
from tether.evaluate.measures import measure
from tether.evaluate.report import galleries
from tether.evaluate.retrieval import ranks
from tether.evaluate.zero_shot import logits
from tether.models import create
from tether.tasks.classify.zero_shot import ZeroShotClassifier, class_weights, weights_of_prompts
from tether.tasks.retrieve.search import Searcher

from test_inspect import COLOURS, WIDTH, Rows, Stub, rows  # isort: skip - a neighbour

CURVATURE = {name: 0.5 for name in GEOMETRIES if name.startswith("hyperbolic")}
every = pytest.mark.parametrize("name", GEOMETRIES)


def seen(name: str, *, n: int = 24) -> Embedded:
    """Pairs in which length tells as much as direction: every other image is a longer copy of the one before."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(n // 2, 5, generator=generator).repeat_interleave(2, dim=0)
    image[1::2] *= 2
    names = tuple(map(str, range(n)))
    return Embedded(
        names, names, (), image, image + 0.01, torch.arange(n), geometry=Geometry(name, CURVATURE.get(name))
    )


@every
def test_ranks_are_those_of_the_whole_table_in_any_blocks(name: str) -> None:
    look = seen(name)
    image, text = look.geometry.points(look.image), look.geometry.points(look.text)
    table = look.geometry.similarity(image, text)
    wanted = (table >= table.diagonal()[:, None]).sum(dim=1)
    for cells in (1 << 20, 50):
        found = ranks(image, text, similarity=look.geometry.similarity, block_cells=cells)
        assert torch.equal(found.image_to_text, wanted)


def test_length_finds_what_direction_cannot() -> None:
    results = {name: measure(create("tiny"), seen(name), measures=("retrieval", "geometry")) for name in GEOMETRIES}
    for name in ("euclidean", "euclidean-squared", "hyperbolic", "hyperbolic-squared"):
        assert results[name]["image_to_text_r1"] == 1
    assert results["clip"]["image_to_text_r1"] < 1
    assert len({result["gap_distance"] for result in results.values()}) == 1  # of unit rows, whatever the geometry


def test_the_metric_takes_the_similarity() -> None:
    look = seen("euclidean-squared")
    metric = RetrievalRecall(k=(1,), similarity=look.geometry.similarity)
    for part in (slice(0, 10), slice(10, None)):
        metric.update(look.image[part], look.text[part])
    assert metric.compute() == recall_at_k(look.image, look.text, k=(1,), similarity=look.geometry.similarity)


@every
def test_a_model_is_evaluated_by_its_own_similarity(name: str) -> None:
    model = create("tiny", geometry=name, final_layernorm="drop", context=48).eval()
    source = open_source("scenes:rows=12,split=test", where="test")
    result = evaluate(model, source, bootstrap=5)
    look = embed_source(model, source)
    assert look.geometry.name == name
    image, text = look.geometry.points(look.image), look.geometry.points(look.text)
    assert (
        result["text_to_image_r1"] == recall_at_k(image, text, similarity=look.geometry.similarity)["text_to_image_r1"]
    )
    weights = class_weights(model, look.classes)
    right = logits(image, weights=weights, geometry=look.geometry).argmax(dim=1)
    named = torch.tensor([look.classes.index(label) for label in look.labels])
    assert result["zero_shot_top1"] == pytest.approx((right == named).double().mean().item(), abs=1e-6)
    assert ("clip_score" in result) == (name in ("clip", "elliptic", "euclidean-inner"))


def test_class_rows_are_plain_means_where_lengths_count() -> None:
    prompts = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    plain = weights_of_prompts(prompts, geometry=Geometry("euclidean-squared"))
    torch.testing.assert_close(plain, prompts.mean(dim=1))
    unit = F.normalize(F.normalize(prompts, dim=-1).mean(dim=1), dim=-1)
    for name in ("clip", "elliptic"):
        torch.testing.assert_close(weights_of_prompts(prompts, geometry=Geometry(name)), unit)


def test_a_classifier_compares_as_the_model_does() -> None:
    model = create("tiny", geometry="euclidean-squared", final_layernorm="drop").eval()
    head = ZeroShotClassifier().prepare(model, ["star", "ring", "moon"])
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    scores = head.predict(pixels)
    with torch.inference_mode():
        wanted = -torch.cdist(
            model.encode_image(pixels).pooled, class_weights(model, ["star", "ring", "moon"])
        ).square()
    torch.testing.assert_close(scores.cosine, wanted, rtol=1e-4, atol=1e-5)
    assert ZeroShotClassifier().prepare(model, ["one class"]).predict(pixels).probability.eq(1).all()


def test_clip_score_of_a_dot_product_and_of_distances() -> None:
    image, text = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.ones(4, 5)
    inner = clip_score(image, text, geometry=Geometry("euclidean-inner"))
    torch.testing.assert_close(inner, 2.5 * image.sum(dim=1).clamp_min(0))
    assert torch.equal(clip_score(image, text), clip_score(image, text, geometry=Geometry("elliptic")))
    with pytest.raises(InputError, match="euclidean-squared are never above 0"):
        clip_score(image, text, geometry=Geometry("euclidean-squared"))


@every
def test_galleries_show_the_models_own_neighbours(name: str) -> None:
    look = seen(name)
    image, text = look.geometry.points(look.image), look.geometry.points(look.text)
    found = ranks(image, text, similarity=look.geometry.similarity)
    hits, misses = galleries.text_to_image(look, ranks=found.text_to_image)
    for query in (*hits, *misses):
        best = look.geometry.similarity(text[query.image][None], image)[0].max()
        assert query.answers[0].similarity == pytest.approx(best.item(), abs=1e-5)


def test_a_store_of_directions_is_refused() -> None:
    class Directions:
        uri, dim, digest, model = "somewhere", 64, "", ""

    Searcher(Directions(), model=create("tiny", geometry="elliptic"))  # the same neighbours as by cosine
    with pytest.raises(InputError, match="compares by cosine, this model by euclidean-squared"):
        Searcher(Directions(), model=create("tiny", geometry="euclidean-squared"))


class OnALine(Stub):
    """Puts everything on one ray, so that only lengths tell colours apart; made for the squared distance."""

    geometry = Geometry("euclidean-squared")

    def _far(self, colours: torch.Tensor) -> torch.Tensor:
        names = torch.tensor(list(COLOURS.values())) / 255
        place = torch.cdist(colours, names).argmin(dim=1)
        return (1 + place[:, None]) * torch.ones(WIDTH)

    def encode_image(self, image: torch.Tensor, *, mask=None) -> Features:
        return Features(self._far(image.float().mean(dim=(2, 3)) / 255))

    def encode_text(self, text: torch.Tensor, *, mask=None) -> Features:
        return Features(self._far(torch.tensor(list(COLOURS.values())) / 255)[text[:, 0] - 1])


def test_pairs_are_compared_as_the_model_does(tmp_path):
    """By cosine this model tells nothing apart; by its own distance it tells every colour."""
    probes = ["about", "towers", "retrieval", "mismatched", "gap"]
    four = [Row(row.key, row.image, (" ".join(row.texts[0].split()[:2]),), {"label": row.key}) for row in rows(120)]
    report = inspect_model(OnALine(), Rows(four), out=tmp_path, probes=probes)
    assert report.alarms == ()
    apart = report.section("retrieval").finding.figure("share of wrong answers that a pair beats (chance 50 %)")
    assert apart.value == 1
    assert "similarity (euclidean-squared)" in report.section("retrieval").finding.drawings[1].title
    assert report.section("about").level == "note"
    assert "'euclidean-squared'" in report.section("about").finding.unsaid
    assert report.section("gap").finding is not None
    plain = OnALine()
    plain.geometry = COSINE
    assert "retrieval" in inspect_model(plain, Rows(four), out=tmp_path / "cosine", probes=["retrieval"]).alarms


@pytest.mark.parametrize("name", GEOMETRIES)
def test_pairing_in_every_geometry(name):
    geometry = Geometry(name, 0.5 if name.startswith("hyperbolic") else None)
    chance = torch.Generator().manual_seed(0)
    text = geometry.points(torch.randn(40, 8, generator=chance)).double()
    captions = [f"text {at}" for at in range(40)]
    own = pair_up(text, text, owner=torch.arange(40), captions=captions, geometry=geometry)
    if not name.endswith("inner"):  # where nothing is nearer than itself
        assert own.told_apart.tolist() == [1.0] * 40
    scores = geometry.similarity(text, text)
    assert torch.allclose(own.similarity, scores.diagonal(), atol=1e-5)
    better = scores > scores.diagonal()[:, None] + 1e-6
    assert own.image_ranks.tolist() == (1 + better.sum(dim=1)).tolist()
    assert torch.allclose(own.unit.norm(dim=1), torch.ones(40, dtype=torch.float64))
    beats = beaten(own, text, rows=torch.arange(5), groups=torch.arange(5))[0]
    assert torch.allclose(beats, (scores < scores.diagonal()[:, None] - 1e-6)[:5].double().mean(dim=1))


def test_the_geometry_of_a_wrapped_model_is_found(tmp_path):
    class Wrapping(Stub):
        model = OnALine()

    report = inspect_model(Wrapping(), Rows(rows(40)), out=tmp_path, probes=["about"])
    assert "'euclidean-squared'" in report.section("about").finding.unsaid


def test_another_geometry_is_said(tmp_path):
    """Most sections compare by cosine; of a model that does not they are a first look, and the report says so."""
    model = create("tiny", seed=0, image_size=64, geometry="hyperbolic").eval()
    pairs = open_source("scenes:split=test,rows=40", where="test")
    report = inspect_model(model, pairs, out=tmp_path, probes=["about", "retrieval"])
    assert report.section("about").level == "note"
    assert "'hyperbolic'" in report.section("about").finding.unsaid
    assert report.section("retrieval").finding is not None

"""Retrieval, zero-shot, CLIPScore and search ask the model what it compares with."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tether.core.errors import InputError
from tether.core.geometry import GEOMETRIES, Geometry
from tether.data import open_source
from tether.evaluate import RetrievalRecall, evaluate, recall_at_k
from tether.evaluate.clip_score import clip_score
from tether.evaluate.embeddings import Embedded, embed_source
from tether.evaluate.report import galleries
from tether.evaluate.retrieval import ranks
from tether.evaluate.suite import measure
from tether.evaluate.zero_shot import logits
from tether.models import create
from tether.tasks.classify.zero_shot import ZeroShotClassifier, class_weights, weights_of_prompts
from tether.tasks.retrieve.search import Searcher

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

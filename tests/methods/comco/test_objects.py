"""Several objects at once: exact on additive embeddings, probes, matching captions, bad input."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tether.core.errors import InputError
from tether.core.types import Features, ImageSpec
from tether.methods.comco import (
    MatchingPair,
    matching_accuracy,
    matching_drop,
    matching_pairs,
    object_probe,
    object_retrieval,
    order_bias,
    prototypes,
    size_bias,
)
from tether.methods.comco.scenes import MultiObjectWorld
from tether.models import create

OBJECTS = [("red", "star"), ("blue", "ring"), ("green", "cross"), ("orange", "moon"), ("black", "heart")]
NAMES = ["a red star", "a blue ring", "a green cross", "an orange moon", "a black heart"]


def items(count=200, *, objects=8, n=3, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(np.stack([rng.permutation(objects)[:n] for _ in range(count)]))


def additive(present, *, weights, noise=0.0, objects=8, seed=0):
    """Items that are the weighted sum of orthogonal prototypes."""
    generator = torch.Generator().manual_seed(seed)
    features = (torch.eye(objects)[present] * torch.tensor(weights)[:, None]).sum(1)
    return features + noise * torch.randn(features.shape, generator=generator)


class TestRetrieval:
    @pytest.mark.parametrize("heaviest", [0, 1, 2])
    def test_the_heaviest_place_is_always_best(self, heaviest):
        weights = [1.0, 1.0, 1.0]
        weights[heaviest] = 2.0
        present = items()
        found = object_retrieval(3 * additive(present, weights=weights), prototypes=torch.eye(8), present=present)
        assert found.topn_accuracy == 1
        assert found.best_share[heaviest] == found.first_share[heaviest] == 1
        assert (found.predicted[:, 0] == present[:, heaviest]).all()
        assert found.map == found.ndcg == 1

    def test_even_weights_give_even_shares(self):
        present = items(3000)
        features = additive(present, weights=[1.0, 1.0, 1.0], noise=0.1)
        found = object_retrieval(features, prototypes=torch.eye(8), present=present)
        assert (found.best_share - 1 / 3).abs().max() < 0.03
        assert float(found.best_share.sum()) == pytest.approx(1)

    def test_the_share_is_governed_by_the_weight(self):
        present = items(3000)
        shares = [
            float(
                object_retrieval(
                    additive(present, weights=[weight, 1.0, 1.0], noise=0.3), prototypes=torch.eye(8), present=present
                ).best_share[0]
            )
            for weight in (0.8, 1.0, 1.3, 2.0)
        ]
        assert shares == sorted(shares)
        assert shares[-1] > 0.95

    def test_best_share_looks_at_the_present_only(self):
        present = torch.tensor([[0, 1]])
        found = object_retrieval(torch.tensor([[0.5, 0.4, 0.9]]), prototypes=torch.eye(3), present=present)
        assert found.predicted.tolist() == [[2, 0]]
        assert found.topn_correct == 0
        assert found.best_counts.tolist() == [1, 0]
        assert found.first_in_correct.tolist() == [0, 0]
        assert found.first_share.tolist() == [0, 0]
        assert found.precision.tolist() == [0.5]
        assert found.precision_at.tolist() == [[0, 0.5]]
        assert found.average_precision.tolist() == [0.25]
        assert found.gains.item() == pytest.approx(1 / np.log2(3))

    def test_nothing_right_is_zero_and_not_nan(self):
        found = object_retrieval(
            torch.tensor([[0.0, 0, 1, 1]]), prototypes=torch.eye(4), present=torch.tensor([[0, 1]])
        )
        assert found.map == found.ndcg == 0
        assert found.f1.tolist() == [0]

    def test_listing_turns_the_list_and_nothing_else(self):
        present = items(50)
        features = additive(present, weights=[1.0, 1.0, 1.0], noise=0.7)
        down, up = (
            object_retrieval(features, prototypes=torch.eye(8), present=present, listing=listing)
            for listing in ("best_first", "best_last")
        )
        assert torch.equal(down.predicted, up.predicted.flip(1))
        assert torch.equal(down.best_counts, up.best_counts)
        assert torch.equal(down.precision, up.precision)
        assert down.map > up.map

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"present": torch.tensor([[1, 1]])}, "holds an object twice"),
            ({"present": torch.tensor([[0, 3]])}, "objects 0 to 2"),
            ({"present": torch.tensor([[0, -1]])}, "objects 0 to 2"),
            ({"present": torch.tensor([[0, 1, 2, 0]])}, "only 3 prototypes"),
            ({"present": torch.tensor([[0.0, 1.0]])}, "whole numbers"),
            ({"present": torch.tensor([[0, 1], [1, 2]])}, "whole numbers"),
            ({"prototypes": torch.eye(4)[:3]}, "differ in width"),
            ({"prototypes": torch.zeros(3, 3)}, "row 0 is zero"),
            ({"prototypes": torch.full((3, 3), torch.nan)}, "NaN"),
        ],
    )
    def test_bad_input(self, change, why):
        keywords = {"prototypes": torch.eye(3), "present": torch.tensor([[0, 1]])} | change
        with pytest.raises(ValueError, match=why):
            object_retrieval(torch.ones(1, 3), **keywords)


class TestProbe:
    def test_it_reads_the_place_that_is_written_and_no_other(self):
        present = items(400, objects=5, n=2)
        features = torch.eye(5)[present[:, 0]]
        found = object_probe(features, present=present, seed=0, epochs=60)
        assert found.tested == 80
        assert found.accuracy[0] > 0.95
        assert found.accuracy[1] < 0.5
        assert (found.majority < 0.5).all()

    def test_one_seed_gives_one_result(self):
        present = items(60, objects=4, n=2)
        features = additive(present, weights=[2.0, 1.0], noise=0.3, objects=4)
        one, same, other = (object_probe(features, present=present, seed=seed, kind="text") for seed in (1, 1, 2))
        assert torch.equal(one.accuracy, same.accuracy)
        assert one.tested == 9
        assert other.tested == 9

    def test_bad_input(self):
        for change, why in (
            ({"present": torch.zeros(3)}, "whole numbers"),
            ({"present": torch.full((4, 1), -1)}, "from 0"),
        ):
            with pytest.raises(InputError, match=why):
                object_probe(torch.ones(4, 3), **{"present": torch.zeros(4, 1, dtype=torch.int64), "seed": 0, **change})
        with pytest.raises(InputError, match="too few"):
            object_probe(torch.ones(1, 3), present=torch.zeros(1, 1, dtype=torch.int64), seed=0)


class TestMatching:
    def test_captions(self):
        classes = ["car", "carrot", "cat", "dog", "hen"]
        first = matching_pairs(["cat", "car", "dog"], biased=2, classes=classes, scenario="first")
        assert first == [
            MatchingPair("dog and car and cat", "carrot and car and cat"),  # a name within another is its own
            MatchingPair("dog and car and cat", "hen and car and cat"),
        ]
        last = matching_pairs(["cat", "car", "dog"], biased=0, classes=classes, scenario="last")
        assert last[1] == MatchingPair("dog and car and cat", "cat and car and hen")

    def test_accuracy_needs_a_strict_win(self):
        image = torch.tensor([[1.0, 0], [1, 0], [1, 0]])
        correct, wrong = torch.tensor([[2.0, 0], [1, 1], [0, 1]]), torch.tensor([[1.0, 1], [3, 3], [1, 1]])
        assert matching_accuracy(image, correct=correct, wrong=wrong) == pytest.approx(1 / 3)

    def test_a_tower_that_hears_the_first_word_alone_drops(self):
        model = _FirstWord(NAMES)
        image = torch.eye(5)[:3]
        objects = [[NAMES[i], NAMES[(i + 1) % 5], NAMES[(i + 2) % 5]] for i in range(3)]
        report = matching_drop(model, image, objects=objects, biased=0, classes=NAMES)
        assert report.pairs == 6
        assert (report.first, report.last, report.drop) == (1, 0, 1)

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"objects": ["cat", "cat"]}, "two different"),
            ({"objects": ["cat"]}, "two different"),
            ({"objects": ["cat", "cow"]}, "'cow' is none"),
            ({"biased": 2}, "place from 0 to 1"),
        ],
    )
    def test_bad_input(self, change, why):
        keywords = {"objects": ["cat", "dog"], "biased": 0, "classes": ["cat", "dog", "hen"], "scenario": "first"}
        keywords |= change
        with pytest.raises(ValueError, match=why):
            matching_pairs(keywords.pop("objects"), **keywords)

    def test_bad_tables(self):
        with pytest.raises(InputError, match="one shape"):
            matching_accuracy(torch.ones(2, 3), correct=torch.ones(2, 3), wrong=torch.ones(1, 3))
        with pytest.raises(InputError, match="at least one image"):
            matching_drop(_FirstWord(NAMES), torch.ones(0, 5), objects=[], biased=0, classes=NAMES)
        with pytest.raises(InputError, match="no wrong caption"):
            matching_drop(_FirstWord(NAMES), torch.eye(5)[:1], objects=[NAMES[:2]], biased=0, classes=NAMES[:2])


class _Ids:
    """Names of whole objects as ids, in the order they are said."""

    context_length, vocab_size = 8, 16

    def __init__(self, names):
        self.names = names

    def __call__(self, texts):
        rows = [[self.names.index(name) + 1 for name in text.split(" and ")] + [15] for text in texts]
        width = max(map(len, rows))
        return torch.tensor([row + [0] * (width - len(row)) for row in rows])


class _FirstWord(nn.Module):
    """Hears the object at one place of a caption far more than the others."""

    dim, image_spec = 5, ImageSpec((64, 64))
    logit_bias = None

    def __init__(self, names, *, pull=10.0):
        super().__init__()
        self.tokenizer = _Ids(names)
        self.pull = pull
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def encode_text(self, text, *, mask=None):
        weight = torch.ones(text.shape[1])
        weight[0] = self.pull
        seen = F.one_hot(text * (text < 15), 16)[..., 1:6].float()
        return Features((seen * weight[:, None]).sum(1))


class TestOrder:
    def test_a_pull_of_the_first_place_is_found(self):
        found = order_bias(_FirstWord(NAMES), NAMES, n=3, seed=0)
        assert len(found.predicted) == 10  # every combination once
        assert found.best_share[0] == 1

    def test_a_sum_of_objects_knows_no_order(self):
        model = create("tiny", image_size=64).eval()
        one, other = (order_bias(model, NAMES, n=3, seed=seed, embedding="sum") for seed in (0, 1))
        assert torch.equal(one.predicted, other.predicted)
        assert not torch.equal(one.best_counts, other.best_counts)  # the same objects win, at other places
        one, other = (order_bias(model, NAMES, n=3, seed=seed) for seed in (0, 0))
        assert torch.equal(one.predicted, other.predicted)

    def test_names_are_in_every_place(self):
        names = [f"object {index}" for index in range(9)]
        model = _Recorder(names)
        order_bias(model, names, n=3, seed=1)
        firsts = [text.split(" and ")[0] for text in model.heard if " and " in text]
        assert len(firsts) == 84
        assert set(firsts) == set(names)

    def test_the_limit_draws_combinations_without_repeats(self):
        names = [f"object {index}" for index in range(12)]
        model = _Recorder(names)
        order_bias(model, names, n=4, seed=1, limit=50, template="{} on a table")
        spoken = [text for text in model.heard if " and " in text]
        assert len(spoken) == len({frozenset(text.removesuffix(" on a table").split(" and ")) for text in spoken}) == 50

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"n": 6}, "2 to 5"),
            ({"n": 1}, "2 to 5"),
            ({"names": ["a", "a"]}, "different names"),
            ({"names": ["a", " "]}, "different names"),
            ({"template": "no slot"}, "exactly one"),
        ],
    )
    def test_bad_input(self, change, why):
        keywords = {"names": NAMES, "n": 2, "seed": 0} | change
        with pytest.raises(ValueError, match=why):
            order_bias(_FirstWord(NAMES), keywords.pop("names"), **keywords)


class _Recorder(nn.Module):
    """Remembers what it was told."""

    dim = 4

    def __init__(self, names):
        super().__init__()
        self.heard = []
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    @property
    def tokenizer(self):
        def read(texts):
            self.heard += texts
            return torch.tensor([[hash_of(text), 15] for text in texts])

        return read

    def encode_text(self, text, *, mask=None):
        return Features(torch.stack([text[:, 0].float() + 1, *(torch.ones(3, len(text)))], dim=1))


def hash_of(text):
    return sum(map(ord, text)) % 14 + 1


class TestSize:
    def test_a_tower_that_sums_pixels_favours_the_largest(self):
        world = MultiObjectWorld(objects=OBJECTS, n=3, big=1)
        found = size_bias(_Colours(), world, count=100, views=2)
        assert found.best_share[1] > 0.9
        assert prototypes(_Colours(), world).shape == (5, 5)


class _Colours(nn.Module):
    """Counts the pixels that have about the colour of each object."""

    dim, image_spec = 5, ImageSpec((64, 64))

    def __init__(self):
        super().__init__()
        self.logit_scale = nn.Parameter(torch.tensor(1.0))

    def encode_image(self, image, *, mask=None):
        from tether.data.sets.scenes.world import COLOURS

        wanted = torch.tensor([COLOURS[colour] for colour, _ in OBJECTS]).float()
        distance = (image[:, None].float() - wanted[None, :, :, None, None]).abs().sum(2)
        return Features((distance < 60).float().sum((2, 3)) + 1)

"""The metric arrays of _baseline-clip.npz: open_clip's retrieval and zero-shot, align_uniform, clipscore."""

import numpy as np
import pytest
import torch
from loading import load

from tether.evaluate.clip_score import clip_score, ref_clip_score
from tether.evaluate.geometry import alignment, gap_vector, modality_gap, uniformity
from tether.evaluate.retrieval import recall_at_k
from tether.evaluate.zero_shot import logits, top_k_accuracy
from tether.tasks.classify.zero_shot import weights_of_prompts

VECTORS = load("_baseline-clip")
TOLERANCE = VECTORS.meta["tolerance"]


def close(actual, expected):
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else actual
    np.testing.assert_allclose(actual, expected, rtol=TOLERANCE["rtol"], atol=TOLERANCE["atol"])


class Case:
    def __init__(self, name):
        self.name = name

    def __call__(self, array, *, grad=False):
        return torch.from_numpy(VECTORS[f"{self.name}_{array}"]).clone().requires_grad_(grad)

    def expected(self, array):
        return VECTORS[f"{self.name}_{array}"]


@pytest.fixture(params=sorted(VECTORS.meta["cases"]))
def case(request):
    return Case(request.param)


@pytest.mark.parametrize("block_cells", [1, 50, 1 << 24])
def test_retrieval(case, block_cells):
    found = recall_at_k(case("img"), case("retrieval_txt"), block_cells=block_cells)
    close([found[name.replace("R@", "r")] for name in VECTORS.meta["retrieval_order"]], case.expected("retrieval"))


def test_gap(case):
    close(modality_gap(case("img"), case("txt")), case.expected("gap"))
    close(gap_vector(case("img"), case("txt")), case.expected("gap_vector"))


def test_alignment_and_its_gradients(case):
    image, text = case("img", grad=True), case("txt", grad=True)
    value = alignment(image, text)
    close(value, case.expected("align"))
    value.backward()
    close(image.grad, case.expected("align_grad_img"))
    close(text.grad, case.expected("align_grad_txt"))


def test_uniformity_and_its_gradient(case):
    image = case("img", grad=True)
    value = uniformity(image)
    close(value, case.expected("uniform_img"))
    value.backward()
    close(image.grad, case.expected("uniform_grad_img"))
    close(uniformity(case("txt")), case.expected("uniform_txt"))


def test_clip_score(case):
    close(clip_score(case("raw_img"), case("txt")), case.expected("clipscore"))


def test_ref_clip_score(case):
    given = (case("raw_img"), case("txt"))
    reference = {"references": case("refs"), "counts": case("ref_counts")}
    # The figures are the released code's, which lets a best cosine be negative; the default is the paper's.
    released = case.expected("refclipscore")
    close(ref_clip_score(*given, **reference, negative="keep"), released)
    close(ref_clip_score(*given, **reference), np.maximum(released, 0))


def test_zero_shot():
    weights = weights_of_prompts(torch.from_numpy(VECTORS["zs_prompt_emb"]))
    close(weights, VECTORS["zs_classifier"])
    scores = logits(torch.from_numpy(VECTORS["zs_img"]), weights=weights)
    close(scores, VECTORS["zs_logits"])
    accuracy = top_k_accuracy(scores, labels=torch.from_numpy(VECTORS["zs_label"]), k=(1, 5))
    close(accuracy["top1"], VECTORS["zs_top1"])
    close(accuracy["top5"], VECTORS["zs_top5"])

"""Reading through windows on every family: short texts as they were, long ones as means of texts of the model."""

import pytest
import torch

from families import FAMILIES, SEALED
from tether.core.errors import InputError, UnsupportedModelError
from tether.models.texts.text_windows import SlidingTextEncoder
from tether.models.tokenizer import lengths

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]
LONG = " ".join(["a red cat in a dog sun"] * 30)
TEXTS = ["a red cat", LONG, "", LONG[: len(LONG) // 2]]


@pytest.fixture(scope="module", params=list(FAMILIES))
def family(request, tmp_path_factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return request.param, FAMILIES[request.param](tmp_path_factory.mktemp("family")).double().eval()


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_each_window_is_a_text_of_the_model(family):
    _, model = family
    reader = SlidingTextEncoder(model)
    ids, context = reader.tokenizer(TEXTS), model.tokenizer.context_length
    found = reader.encode_text(ids).pooled
    equal(found[[0, 2]], model.encode_text(model.tokenizer([TEXTS[0], TEXTS[2]])).pooled)
    length, frame = lengths(ids), reader.before + reader.after
    assert length[1] > length[3] > context
    words = ids[1, reader.before : length[1] - reader.after].tolist()
    size, stride, windows = context - frame, reader.step - frame, []
    while words:  # a plain reading of the same rule
        row = [*ids[1, : reader.before].tolist(), *words[:size], *ids[1, length[1] - reader.after : length[1]].tolist()]
        windows.append(model.encode_text(torch.tensor([row])).pooled)
        words = words[stride:] if len(words) >= size else []
    assert len(windows) > 2
    equal(found[1], torch.cat(windows).mean(0))


def test_raw_windows_are_read_where_they_are_told(family):
    name, model = family
    if (name, "text") in SEALED:
        with pytest.raises(UnsupportedModelError):
            SlidingTextEncoder(model, mode="raw")
        return
    last, largest = (SlidingTextEncoder(model, mode="raw", reads=reads) for reads in ("last", "largest"))
    ids = last.tokenizer(TEXTS)
    equal(last.encode_text(ids[:1]).pooled, model.encode_text(model.tokenizer(TEXTS[:1])).pooled)
    if name != "CoCa":  # which reads a token of its own
        assert not torch.allclose(last.encode_text(ids).pooled[1], largest.encode_text(ids).pooled[1], atol=1e-5)
    context = model.tokenizer.context_length
    full = model.tokenizer([LONG])
    assert full.shape[1] == context
    equal(last._read_cut(full), model.encode_text(full).pooled)  # a window that has an end token in the last place


def test_gradient_reaches_the_text_tower(family):
    _, model = family
    reader = SlidingTextEncoder(model)
    model.zero_grad()
    reader.encode_text(reader.tokenizer([LONG])).pooled.square().sum().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.zero_grad()


def test_bad_sizes(family):
    _, model = family
    context = model.tokenizer.context_length
    for wrong in ({"window": context + 1}, {"window": 0}, {"step": context + 1}):
        with pytest.raises(InputError, match=r"window|step"):
            SlidingTextEncoder(model, **wrong)
    with pytest.raises(InputError, match="mask"):
        SlidingTextEncoder(model).encode_text(model.tokenizer(["a"]), mask=torch.ones(1, 1, dtype=torch.bool))

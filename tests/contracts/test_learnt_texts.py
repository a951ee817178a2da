"""What learnt vectors among words must keep on every family: the text tower's own numbers where they are its rows."""

import pytest
import torch

from families import FAMILIES, SEALED
from tether.core.errors import InputError, UnsupportedModelError
from tether.models.features.find import anatomy_of
from tether.models.refusals import EXCEPTIONS
from tether.models.texts.new_tokens import NewTokens
from tether.models.texts.prompts import Prompts

pytestmark = pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
CLASSES = ["cat", "a dog", "sun"]
FIRST = [f"a red {text}" for text in CLASSES]
WHOLE = [f"{text} in" for text in FIRST]


@pytest.fixture(scope="module", params=list(FAMILIES))
def model(request, tmp_path_factory):
    """A model whose text tower is opened, or None where both parts refuse it with the table's reason."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found = FAMILIES[request.param](tmp_path_factory.mktemp("family")).double().eval()
    reason = SEALED.get((request.param, "text"))
    if reason is None:
        return found
    for make in (lambda: Prompts(found, CLASSES), lambda: NewTokens(found, {"<v>": "a"})):
        with pytest.raises(UnsupportedModelError) as caught:
            make()
        assert EXCEPTIONS[reason] in str(caught.value)
    return None


def encoded(model, texts):
    return model.encode_text(model.tokenizer(texts)).pooled


def equal(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_prompts_that_are_words_are_those_words(model):
    if model is None:
        return
    prompts = Prompts(model, CLASSES, context="a red", suffix="in")
    equal(prompts().pooled, encoded(model, WHOLE))
    each = Prompts(model, CLASSES, context="a red", suffix="in", per_class=True, count=2)
    equal(each().pooled[::2], encoded(model, WHOLE))
    assert not torch.allclose(each().pooled[1::2], encoded(model, WHOLE), atol=1e-4)
    head = len(prompts.words_of(["a red"])[0])
    drawn = Prompts(model, CLASSES, context=head, suffix=prompts.vectors.shape[2] - head)
    assert not torch.allclose(drawn().pooled, encoded(model, WHOLE), atol=1e-4)
    drawn.load_state_dict(prompts.state_dict())
    equal(drawn().pooled, encoded(model, WHOLE))


def test_deep_prompts_replace_what_stands_in_their_places(model):
    if model is None:
        return
    tower, ids = anatomy_of(model, "text"), model.tokenizer(FIRST[:1])
    if len(tower.blocks) == 1:
        with pytest.raises(InputError, match="at most 0 blocks after the first"):
            Prompts(model, CLASSES, context="a red", deep=1)
        return
    prompts = Prompts(model, CLASSES[:1], context="a red", deep=1, deep_length=2)
    assert not torch.allclose(prompts().pooled, encoded(model, FIRST[:1]), atol=1e-4)
    places = prompts.deep_slots[0] >= 0
    stream = tower.run(tower.embed(ids), stop=1).x[0, : len(places)]
    assert places.sum() == 2
    prompts.deep.data[0] = stream[places].detach()
    equal(prompts().pooled, encoded(model, FIRST[:1]))


def test_the_vectors_alone_learn(model):
    if model is None:
        return
    deep = len(anatomy_of(model, "text").blocks) - 1
    prompts, tokens = Prompts(model, CLASSES, context=3, deep=deep), NewTokens(model, {"<v>": "a"})
    model.zero_grad()
    learning = [value.requires_grad for value in model.parameters()]
    (prompts().pooled.square().sum() + tokens.encode(["<v> sun"]).pooled.square().sum()).backward()
    assert all(value.grad is None for value in model.parameters())
    assert [value.requires_grad for value in model.parameters()] == learning
    assert set(prompts.state_dict()) == ({"vectors", "deep"} if deep else {"vectors"})
    for value in (*prompts.parameters(), *tokens.parameters()):
        assert value.grad.flatten(0, -2).norm(dim=-1).gt(0).all()


def test_a_new_word_is_the_word_it_starts_as_and_then_its_own(model):
    if model is None:
        return
    tokens = NewTokens(model, {"<v>": "a"})
    texts = ["<v> dog in", "red sun", "<v>"]
    known = [text.replace("<v>", "a") for text in texts]
    equal(tokens.encode(texts).pooled, encoded(model, known))
    ids = tokens.tokenize(texts)
    assert ids.max() == model.tokenizer.vocab_size
    tokens.vectors.data[0] = 3 * tokens.vectors[0].detach().flip(0)
    moved = (tokens(ids).pooled - encoded(model, known)).norm(dim=-1) > 1e-3
    assert moved.tolist() == [True, False, True]

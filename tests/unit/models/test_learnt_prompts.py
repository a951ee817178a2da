"""Prompts and new words: which row is whose, places, precision, files, and what is refused by name."""

import pytest
import torch

from families import FAMILIES
from tether.core.errors import InputError
from tether.core.state_file import write_state
from tether.models import create
from tether.models.compose import compose
from tether.models.composed.cached import side_digest
from tether.models.save import save
from tether.models.texts.new_tokens import NewTokens
from tether.models.texts.prompts import Prompts


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


def encoded(model, texts):
    return model.encode_text(model.tokenizer(texts)).pooled


@pytest.mark.parametrize("per_class", [False, True])
def test_each_row_reads_its_own_vectors(model, per_class):
    texts = {"normal": "object.", "abnormal": "damaged object."}
    prompts = Prompts(model, texts, context=3, suffix=2, count=2, per_class=per_class)
    assert prompts.classes == ["normal", "abnormal"]
    assert prompts.row_class.tolist() == [0, 0, 1, 1]
    assert prompts.vectors.shape == (2 if per_class else 1, 2, 5, 64)
    before = prompts().pooled
    prompts.vectors.data[-1, 1, 4] += torch.randn(64, generator=torch.Generator().manual_seed(0))
    moved = (prompts().pooled - before).norm(dim=-1) > 1e-6
    assert moved.tolist() == ([False, False, False, True] if per_class else [False, True, False, True])


def test_classes_without_words_have_their_vectors_alone(model):
    prompts = Prompts(model, {"good": ".", "bad": "."}, context=12, per_class=True)
    assert not torch.allclose(*prompts().pooled)
    rows = Prompts(model, {"good": "", "bad": ""}, context="a cat", per_class=True, std=1e-30)
    torch.testing.assert_close(rows().pooled, encoded(model, ["a cat"] * 2))


def test_prompts_learn_and_leave_the_encoder_as_it_is(model):
    seen = model.encode_image(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))).unit.detach()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = [Prompts(model, ["cat", "dog"], context=4, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(made[0].vectors, made[1].vectors)
    optimizer, losses = torch.optim.Adam(made[0].parameters(), lr=0.02), []
    for _ in range(30):
        losses.append(torch.nn.functional.cross_entropy(20 * seen @ made[0]().unit.T, torch.arange(8) % 2))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.01
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_vectors_stay_float32_in_a_half_precision_encoder():
    model = create("tiny", seed=1).eval().bfloat16()
    prompts, tokens = Prompts(model, ["cat"], context="a photo of a"), NewTokens(model, {"<v>": "cat"})
    assert prompts.vectors.dtype == tokens.vectors.dtype == torch.float32
    assert prompts().pooled.dtype == torch.bfloat16
    torch.testing.assert_close(prompts().pooled, encoded(model, ["a photo of a cat"]), atol=0.05, rtol=0.05)
    prompts().pooled.float().sum().backward()
    assert prompts.vectors.grad.dtype == torch.float32


def test_a_composed_encoder_with_an_opened_text_tower(tmp_path):
    save(create("tiny", seed=1), tmp_path)
    model = compose(image=str(tmp_path), text=str(tmp_path), join="linear", dim=24).eval()
    assert Prompts(model, ["cat"], context="a photo of a")().pooled.shape == (1, 24)
    torch.testing.assert_close(Prompts(model, ["cat"], context="a")().pooled, encoded(model, ["a cat"]))
    torch.testing.assert_close(NewTokens(model, {"<v>": "cat"}).encode(["a <v>"]).pooled, encoded(model, ["a cat"]))


def test_towers_may_keep_their_places_free_of_words(tmp_path):
    """SigLIP's texts without a start token, padded on the left, coded with the space before a word."""
    model = FAMILIES["SigLIP 2 padded left"](tmp_path).eval()
    prompts = Prompts(model, ["cat", "a sun"], context=2, suffix=1)
    assert prompts.slots.tolist() == [[-1] * 9 + [0, 1, -1, -1, -1, -1, 2], [-1] * 7 + [0, 1] + [-1] * 6 + [2]]


def test_new_words_stand_anywhere(model):
    tokens = NewTokens(model, {"<v>": "cat", "<v2>": "sun", "dax": "dog"})
    texts = ["a photo of <v>, the dax", "<v2><v> in\nthe red<v2>.", "daxes and adax", "dax", "a red dog"]
    known = ["a photo of cat, the dog", "sun cat in the red sun.", "daxes and adax", "dog", "a red dog"]
    torch.testing.assert_close(tokens.encode(texts).pooled, encoded(model, known))
    first = model.tokenizer.vocab_size
    assert [[value - first for value in row if value >= first] for row in tokens.tokenize(texts).tolist()] == [
        [0, 2], [1, 0, 1], [], [2], [],
    ]  # fmt: skip
    assert tokens.tokenize([]).shape == (0, 0)


def test_new_words_can_be_directions_of_fixed_length(model):
    class Fixed(torch.nn.Module):
        def forward(self, direction):
            return 3 * torch.nn.functional.normalize(direction, dim=-1)

    tokens = NewTokens(model, {"<v>": "cat"})
    torch.nn.utils.parametrize.register_parametrization(tokens, "vectors", Fixed())
    tokens.encode(["a <v>"]).pooled.sum().backward()
    assert tokens.vectors.norm(dim=-1).item() == pytest.approx(3)
    assert tokens.parametrizations.vectors.original.grad.norm() > 0


def test_files_are_bound_to_the_text_side(model, tmp_path):
    path = tmp_path / "prompts.safetensors"
    prompts = Prompts(model, {"kitty": "cat", "hound": "dog"}, context=3, suffix="!", count=2, deep=1, deep_length=2)
    prompts.save(path)
    again = Prompts.load(path, model=model)
    assert torch.equal(again().pooled, prompts().pooled)
    assert again.classes == ["kitty", "hound"]
    assert set(again.state_dict()) == {"vectors", "deep"}
    other = create("tiny", seed=1).eval()
    other.visual.projection.weight.data += 1
    assert torch.equal(Prompts.load(path, model=other).vectors, prompts.vectors)
    other.text.token.weight.data[5] += 1
    with pytest.raises(InputError, match="was fitted on a text tower with digest"):
        Prompts.load(path, model=other)
    with pytest.raises(InputError, match="expected the state of a NewTokens"):
        NewTokens.load(path, model=model)
    settings, arrays = {"encoder": side_digest(model, "text"), "settings": prompts.settings}, {"vectors": [1.0]}
    for given in (settings, settings | {"settings": {"words": 3}}, {"encoder": settings["encoder"]}):
        write_state(path, format="tether.prompts/1", settings=given, arrays=arrays)
        with pytest.raises(InputError, match=r"safetensors: expected the settings and vectors of a Prompts"):
            Prompts.load(path, model=model)


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        ([], {}, r"texts: expected classes, each once, got \[\]"),
        (["cat", "dog", "cat"], {}, "each once, got .'cat', 'dog', 'cat'"),
        ("cat", {}, "texts: expected a list"),
        ({"good": "cat", "bad": "cat"}, {}, "classes with the same words"),
        ({"good": 3}, {}, "a mapping, each value a string"),
        (["sun", "red cat"], {"context": 21}, "class 'red cat': 1 tokens more than the 24 that the model reads"),
        (["cat"], {"context": 0}, "expected a vector, .* got 0 vectors"),
        (["cat"], {"count": 0}, "count: expected .* got 0"),
        (["cat"], {"deep": 2}, "at most 1 blocks after the first and 16 places of the context, got 16 vectors, 2"),
        (["cat"], {"context": 0, "suffix": 2, "deep": 1}, "0 places of the context"),
    ],
)
def test_bad_prompts_are_refused(model, texts, options, message):
    with pytest.raises(InputError, match=message):
        Prompts(model, texts, **options)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "expected new words without spaces, got"),
        ({"my cat": "cat"}, "without spaces, got .'my cat'"),
        ({"<v>": "red cat"}, "words, '<v>': expected a word of one token, got 'red cat' of 2"),
        ({"<v>": ""}, "got '' of 0"),
        ({"<v>": 3}, "expected a string, got int"),
    ],
)
def test_bad_new_words_are_refused(model, words, message):
    with pytest.raises(InputError, match=message):
        NewTokens(model, words)


def test_what_new_words_are_asked_is_checked(model):
    tokens = NewTokens(model, {"<v>": "cat"})
    with pytest.raises(InputError, match="texts, row 1: 78 tokens more than the 24"):
        tokens.encode(["a <v>", "<v> " * 100])
    with pytest.raises(InputError, match="expected ids below 49409, got 49409"):
        tokens(torch.tensor([[49406, 49409, 49407]]))

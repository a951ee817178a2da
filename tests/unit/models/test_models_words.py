"""Tokenizer, token table and the embedding helpers."""

import copy
import pickle
import random
import string
import subprocess
import sys

import pytest
import torch

from tether.core.errors import InputError
from tether.models import create
from tether.models.embed import encode_images, encode_texts
from tether.models.tokenizer import ClipTokenizer, TextCutWarning, _bpe, bounded, lengths
from tether.models.towers.text.token_embedding import TokenTable

pytestmark = pytest.mark.slow

TEXTS = ["a photo of a cat", "", "Café  au\tlait!! 🙂 &amp; more", "日本語 and 123.45", "it's <b>BOLD</b>", "a" * 60]


def test_same_ids_as_open_clip():
    from open_clip.tokenizer import SimpleTokenizer

    theirs, ids = SimpleTokenizer()(TEXTS), ClipTokenizer(77)(TEXTS)
    assert torch.equal(theirs[:, : ids.shape[1]], ids)
    assert not theirs[:, ids.shape[1] :].any()
    assert ids[:, -1].any()


def test_cutting_is_counted_and_warned_of_once():
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = ClipTokenizer(12)
    texts = ["word " * 10_000, "short", "one two three four five six seven eight nine ten eleven"]
    with pytest.warns(TextCutWarning, match="2 of 3 texts are longer than 12 tokens and were cut") as seen:
        ids = tokenizer(texts)
    assert len(seen) == 1
    assert torch.equal(ids, SimpleTokenizer()(texts, context_length=12))
    assert tokenizer.cut == 2
    assert tokenizer(texts[:1]).shape == (1, 12)  # no second warning: warnings are errors here
    assert tokenizer.cut == 3


def test_tokenizer_door():
    tokenizer = ClipTokenizer(12)
    assert tokenizer([]).shape == (0, 0)
    with pytest.raises(InputError, match="texts: expected a list, each a string, got 'cat'"):
        tokenizer("cat")
    with pytest.raises(InputError, match="row 1: expected a string, got int 3"):
        tokenizer(["cat", 3])
    again = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(again(["cat"]), tokenizer(["cat"]))


def test_lengths():
    assert lengths(torch.tensor([[0, 5, 6, 0], [4, 0, 7, 9], [0, 0, 0, 0]])).tolist() == [3, 4, 1]


def _table(seed=0):
    table = TokenTable(20, width=4)
    torch.nn.init.normal_(table.weight, generator=torch.Generator().manual_seed(seed))
    return table


def test_pruned_table_answers_for_every_id():
    table = _table()
    whole = table.whole().clone()
    table.prune_([7, 3, 3, 19])
    assert table.weight.shape == (3, 4)
    assert not table.rest.requires_grad
    ids = torch.tensor([[3, 19], [0, 7]])
    assert torch.equal(table(ids), whole[ids])
    assert torch.equal(table(ids[:1]), whole[ids[:1]])
    table(ids).sum().backward()
    assert table.weight.grad.tolist() == [[1.0] * 4] * 3
    assert table.rest.grad is None


def test_pruned_table_saves_whole_and_loads_in_place():
    table, other = _table(0), _table(1)
    whole = table.whole().clone()
    table.prune_([3, 7])
    assert list(table.state_dict()) == ["weight"]
    assert torch.equal(table.state_dict()["weight"], whole)
    other.prune_([5])
    held = other.weight
    other.load_state_dict(table.state_dict())
    assert other.weight is held
    assert torch.equal(other.whole(), whole)
    assert torch.equal(other(torch.arange(20)), whole)
    plain = _table(2)
    plain.load_state_dict(table.state_dict())
    assert torch.equal(plain.weight, whole)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict({"weight": torch.zeros(3, 4)})
    with pytest.raises(RuntimeError, match="Missing key"):
        other.load_state_dict({})


def test_restored_table_keeps_what_was_learned():
    table = _table()
    whole = table.whole().clone()
    table.prune_([3, 7])
    with torch.no_grad():
        table.weight.add_(1)
    table.prune_([7, 8])
    assert torch.equal(table.weight, torch.stack([whole[7] + 1, whole[8]]))
    table.restore_()
    whole[[3, 7]] += 1
    assert torch.equal(table.weight, whole)
    assert table.weight.requires_grad
    for ids in ([], [20], [-1]):
        with pytest.raises(InputError, match=r"ids: expected some in \[0, 20\)"):
            table.prune_(ids)


def test_pruning_every_id_leaves_nothing_to_rest():
    table = _table()
    whole = table.whole().clone()
    table.prune_(range(20))
    assert torch.equal(table(torch.arange(20)), whole)
    assert torch.equal(table.state_dict()["weight"], whole)


def test_pruned_model_still_reads_other_words():
    model = create("tiny", seed=1).eval()
    ids = model.tokenizer(["a cat", "entirely different words"])
    before = model.encode_text(ids).pooled
    model.prune_vocabulary_(ids[:1])
    assert len(model.text.token.weight) == 5  # padding, a, cat, start, end
    assert torch.equal(model.encode_text(ids).pooled, before)
    copied = copy.deepcopy(model)
    model.restore_vocabulary_()
    assert torch.equal(model.encode_text(ids).pooled, before)
    assert torch.equal(copied.encode_text(ids).pooled, before)


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=3).eval()


def test_texts_once_each_and_in_order(model, monkeypatch):
    texts = ["a cat", "a much longer text about a dog", "sun", "a cat", "the sea", "sun"]
    seen, progress = [], []
    encode = model.encode_text
    monkeypatch.setattr(model, "encode_text", lambda ids: seen.append(tuple(ids.shape)) or encode(ids), raising=False)
    out = encode_texts(model, texts, batch_size=2, on_progress=lambda done, total: progress.append((done, total)))
    assert seen == [(2, 4), (2, 9)]
    assert progress == [(2, 4), (4, 4)]
    assert not out.requires_grad
    assert torch.allclose(out, encode(model.tokenizer(texts)).pooled, atol=1e-5)
    assert torch.equal(out[0], out[3])
    low = encode_texts(model, texts, precision="bfloat16")
    assert low.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(low, out).min() > 0.98


def test_no_texts_and_no_pictures(model):
    assert encode_texts(model, []).shape == (0, 64)
    assert encode_images(model, []).shape == (0, 64)
    with pytest.raises(InputError, match="row 1: expected a string"):
        encode_texts(model, ["cat", None])


def test_pictures_in_order(model):
    pixels = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    done = []
    out = encode_images(model, iter([pixels[:2], pixels[2:]]), on_progress=lambda count, total: done.append(count))
    assert done == [2, 5]
    assert torch.allclose(out, model.encode_image(pixels).pooled, atol=1e-5)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_bad_pixels_are_named(model, bad):
    pixels = torch.zeros(4, 3, 32, 32)
    pixels[1, 0, 5, 5] = bad
    with pytest.raises(InputError, match=r"image 5 \(counted from 0\): its pixels are not finite"):
        encode_images(model, [torch.zeros(4, 3, 32, 32), pixels])


def test_bad_weights_are_noticed():
    model = create("tiny").eval()
    with torch.no_grad():
        model.text.position[0, 0] = float("nan")
        model.visual.position[0, 0] = float("nan")
    with pytest.raises(InputError, match="text 'cat': its embedding is not finite"):
        encode_texts(model, ["cat"])
    with pytest.raises(InputError, match=r"image 0 .*embedding"):
        encode_images(model, [torch.zeros(1, 3, 32, 32)])


def test_own_model_needs_no_heavy_library():
    code = (
        "import sys, torch, tether\n"
        "from tether.models import create\n"
        "from tether.models.embed import encode_texts\n"
        "encode_texts(create('tiny'), ['a cat'])\n"
        "heavy = {'torchvision', 'transformers', 'open_clip', 'timm', 'scipy', 'sklearn', 'torch._dynamo', 'pandas'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")
class TestLongTexts:
    def test_no_long_word_reaches_the_byte_pair_coder(self):  # which takes 3 s for 8,000 letters
        text = "".join(random.Random(0).choices(string.ascii_lowercase, k=1_000_000))
        (read,) = bounded([text], context=77)
        assert len(read) < 5000
        assert max(map(len, read.split())) == 1024
        tokenizer = ClipTokenizer(77)
        assert tokenizer([text, "a cat"]).shape == (2, 77)
        assert tokenizer.cut == 1

    @pytest.mark.parametrize(
        "text", ["a photo of a cat on a red sofa, " * 400, "  \n " * 5000 + "a cat", "一只猫坐在红色的沙发上" * 90]
    )
    def test_ids_within_the_context_are_those_of_the_whole_text(self, text):
        bpe = _bpe()
        whole = [bpe.sot_token_id, *bpe.encode(text)][:76]
        assert ClipTokenizer(77)([text])[0, : len(whole)].tolist() == whole


def test_rows_that_are_not_finite_become_nan_or_are_refused(monkeypatch):
    model, texts = create("tiny", seed=3).eval(), ["a cat", "the sea", "a cat", "sun"]
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    plain = encode_texts(model, texts), encode_images(model, [pixels[:3], pixels[3:]])
    spoilt = texts[1], pixels[2]

    def spoil(encode, is_spoilt):
        def encoded(batch):
            found = encode(batch)
            rows = torch.tensor([is_spoilt(one) for one in batch])
            found.pooled[rows.nonzero()[:, 0], :2] = torch.tensor([1.0, torch.inf])
            return found

        return encoded

    ids = model.tokenizer([spoilt[0]])[0]
    monkeypatch.setattr(model, "encode_text", spoil(model.encode_text, lambda row: row[: len(ids)].equal(ids)))
    monkeypatch.setattr(model, "encode_image", spoil(model.encode_image, lambda one: one.equal(spoilt[1])))
    found = (
        encode_texts(model, texts, not_finite="nan"),
        encode_images(model, [pixels[:3], pixels[3:]], not_finite="nan"),
    )
    for rows, whole, place in zip(found, plain, (1, 2), strict=True):
        assert rows[place].isnan().all()
        kept = [at for at in range(4) if at != place]
        torch.testing.assert_close(rows[kept], whole[kept])
    with pytest.raises(InputError, match="text 'the sea': its embedding is not finite"):
        encode_texts(model, texts)
    with pytest.raises(InputError, match="image 2"):
        encode_images(model, [pixels[:2], pixels[2:]])

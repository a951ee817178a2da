"""Stacks of slices through every encoder, and what a batch is told of its rows."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from encoders import ENCODERS
from tether.core.errors import InputError
from tether.core.gather import LOCAL
from tether.core.protocols import DualEncoder
from tether.core.types import Row
from tether.data import open_source
from tether.data.collate import facts_of
from tether.data.loader import Loader
from tether.losses import OBJECTIVES
from tether.methods.medical_survey.volume_encoder import SliceStackEncoder
from tether.models import create
from tether.training.steps.module import StepModule
from tether.training.steps.presets import ContrastiveStep


@pytest.fixture(scope="module", params=list(ENCODERS))
def model(request, tmp_path_factory):
    return ENCODERS[request.param](tmp_path_factory.mktemp("encoder"))


def stacks(count=2, slices=3):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, slices, 3, 32, 32), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_new_stack_encoder_is_the_mean_of_its_slices(model, pooling):
    stack = SliceStackEncoder(model, pooling=pooling, at_once=4)
    assert isinstance(stack, DualEncoder)
    found = stack.encode_image(stacks())
    each = torch.stack([model.encode_image(one).pooled for one in stacks()])
    torch.testing.assert_close(found.pooled, each.mean(dim=1))
    torch.testing.assert_close(found.tokens, each)
    one = stacks()[:, 0]
    torch.testing.assert_close(stack.encode_image(one).pooled, model.encode_image(one).pooled)
    text = stack.tokenizer(["a cat", "the sun"])
    assert torch.equal(stack(stacks(), text).text.pooled, model.encode_text(text).pooled)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_padding_counts_nothing_and_order_does_not_matter(model, pooling):
    stack = SliceStackEncoder(model, pooling=pooling).double()
    if stack.query is not None:
        stack.query.data.normal_(generator=torch.Generator().manual_seed(1))
    images = stacks(2, 4)
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    found = stack.encode_image(images, mask=mask)
    torch.testing.assert_close(found.pooled[:1], stack.encode_image(images[:1, :2]).pooled)
    torch.testing.assert_close(found.pooled[1:], stack.encode_image(images[1:].flip(1)).pooled)
    images[0, 2:] = 0
    torch.testing.assert_close(stack.encode_image(images, mask=mask).pooled, found.pooled)
    found.pooled.sum().backward()
    assert stack.query is None or stack.query.grad.isfinite().all()
    model.float()


def test_the_attention_learns_which_slice_to_look_at():
    stack = SliceStackEncoder(create("tiny").eval(), pooling="attention")
    with torch.no_grad():
        rows = stack.encode_image(stacks()).tokens
        stack.query.copy_(50 * torch.nn.functional.normalize(rows[0, 1], dim=0))
        assert stack.weights(rows)[0].argmax() == 1
    assert [name for name, _ in stack.named_parameters() if not name.startswith("model.")] == ["query"]


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (torch.zeros(2, 3, 32), None, "expected"),
        (torch.zeros(2, 0, 3, 32, 32), None, "expected"),
        (stacks(), torch.ones(2, 2, dtype=torch.bool), r"mask: expected bool \(2, 3\)"),
        (stacks(), torch.ones(2, 3), "mask: expected bool"),
        (stacks(), torch.tensor([[True] * 3, [False] * 3]), "stack 1 has no slice"),
    ],
)
def test_bad_stacks_are_refused(image, mask, message):
    with pytest.raises(InputError, match=message):
        SliceStackEncoder(create("tiny")).encode_image(image, mask=mask)
    for settings in ({"pooling": "max"}, {"at_once": 0}):
        with pytest.raises(InputError):
            SliceStackEncoder(create("tiny"), **settings)


def test_facts_travel_with_the_batch_where_every_row_has_them():
    rows = [
        Row("a", None, (), {"findings": [1, 0, None], "study": 7, "patient": "p1"}),
        Row("b", None, (), {"findings": "0 1 -1", "study": "7", "patient": ""}),
        Row("c", None, (), {"findings": np.array([0, 1, 1]), "study": 8, "patient": "p1"}),
    ]
    found = facts_of(rows)
    assert list(found) == ["findings", "study"]
    torch.testing.assert_close(
        found["findings"], torch.tensor([[1, 0, torch.nan], [0, 1, -1], [0, 1, 1]]), equal_nan=True
    )
    assert found["study"][0] == found["study"][1] != found["study"][2]
    assert facts_of(rows[:1])["patient"] == facts_of(rows[2:])["patient"] != facts_of(rows[:1])["study"]
    assert facts_of([Row("d", None, (), {"findings": 1.0})])["findings"].tolist() == [[1.0]]


@pytest.mark.parametrize("value", ["many", [], "", ["x"], {"a": 1}])
def test_what_is_no_vector_is_refused_by_its_key(value):
    with pytest.raises(InputError, match="row 5: findings: expected numbers"):
        facts_of([Row("row 5", None, (), {"findings": value})])
    with pytest.raises(InputError, match="b: findings: expected 2 numbers, as in a, got 1"):
        facts_of([Row("a", None, (), {"findings": [1, 0]}), Row("b", None, (), {"findings": [1]})])


def png(number):
    buffer = io.BytesIO()
    Image.fromarray(np.full((32, 32), 20 * number, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["soft_targets", "multi_positive"])
def test_a_table_of_studies_trains_with_them(tmp_path, name):
    table = {
        "image": [png(place) for place in range(12)],
        "caption": [f"study {place}" for place in range(12)],
        "findings": [[float(place % 2), float(place % 3 == 0)] for place in range(12)],
        "study": [place // 2 for place in range(12)],
        "patient": [f"p{place // 4}" for place in range(12)],
    }
    pq.write_table(pa.table(table), tmp_path / "studies.parquet")
    model = create("tiny")
    loader = Loader(
        open_source(str(tmp_path / "studies.parquet")),
        batch_size=6,
        image_spec=model.image_spec,
        tokenizer=model.tokenizer,
        seed=0,
    )
    batch = next(loader)
    assert batch.extra["findings"].shape == (6, 2)
    assert {"study", "patient"} <= batch.extra.keys()
    step = ContrastiveStep(OBJECTIVES[name](), steps=2, seed=0)
    loss = step(StepModule(model), batch, step=0, gather=LOCAL)
    loss.total.backward()
    assert loss.total.isfinite()

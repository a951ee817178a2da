"""OWL-ViT from a folder: the library's own boxes and scores, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from encoders import WORDS, word_tokenizer
from tether.core.errors import InputError
from tether.methods.gc_clip.detector import OpenDetector
from tether.methods.gc_clip.guided_crops import GuidedCrops
from tether.models import create
from tether.tasks.classify.prompts import SLOT

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VOCABULARY = ("of", "photo", *WORDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from transformers import OwlViTConfig, OwlViTForObjectDetection, OwlViTImageProcessor

    path = tmp_path_factory.mktemp("owl")
    config = OwlViTConfig(
        text_config=SHAPE | {"vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 1},
        vision_config=SHAPE | {"image_size": 64, "patch_size": 16},
        projection_dim=32,
    )
    torch.manual_seed(0)
    OwlViTForObjectDetection(config).save_pretrained(path)
    OwlViTImageProcessor(size={"height": 64, "width": 64}).save_pretrained(path)
    word_tokenizer(path, words=VOCABULARY)
    return path


def image(height: int = 64, width: int = 64) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=draws)


def test_boxes_are_the_librarys(folder):
    from transformers import OwlViTForObjectDetection, OwlViTImageProcessor

    theirs = OwlViTForObjectDetection.from_pretrained(folder).eval()
    processor = OwlViTImageProcessor.from_pretrained(folder)
    ours = OpenDetector.open(folder, template=SLOT)
    inputs = processor(images=image(), return_tensors="pt")
    for label in ("cat", "dog"):
        tokens = ours._tokenizer([label])
        with torch.no_grad():
            out = theirs(input_ids=tokens, attention_mask=torch.ones_like(tokens), **inputs)
        wanted = processor.post_process_object_detection(out, threshold=0.0, target_sizes=torch.tensor([[64, 64]]))[0]
        best = int(wanted["scores"].argmax())
        box, score = ours(image(), label)
        assert score == pytest.approx(float(wanted["scores"][best]), abs=1e-5)
        torch.testing.assert_close(box, wanted["boxes"][best].clamp(0, 64).double(), rtol=0, atol=1e-3)


def test_an_image_and_a_query_are_embedded_once(folder, monkeypatch):
    found = OpenDetector.open(folder)
    seen = []
    look = found._seen
    monkeypatch.setattr(found, "_seen", lambda one: seen.append(one) or look(one))
    one, other = image(40, 90), image(50, 50)
    for picture, label in ((one, "cat"), (one, "dog"), (other, "cat")):
        found(picture, label)
    assert len(seen) == 2
    assert set(found._queries) == {"cat", "dog"}


def test_below_the_threshold_nothing_was_found(folder):
    assert OpenDetector.open(folder, threshold=0.999)(image(), "cat")[0] is None


def test_it_proposes_for_guided_crops(folder):
    head = GuidedCrops(propose=str(folder), n=2).prepare(create("tiny", seed=1).eval(), ["cat", "dog"])
    assert head.predict([image(40, 90)]).cosine.isfinite().all()


def test_refuses(folder, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "clip"}')
    with pytest.raises(InputError, match="model_type: expected owlvit, a detector, got 'clip'"):
        OpenDetector.open(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    config = json.loads((other / "config.json").read_text())
    config["vision_config"]["hidden_size"] = 64
    (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"other.*"):
        OpenDetector.open(other)
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "config.json", bare)
    torch.save({}, bare / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        OpenDetector.open(bare)

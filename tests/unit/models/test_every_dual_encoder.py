"""Every dual encoder of transformers on disk: the same embeddings as its own library with its own processor."""

import json
import shutil

import pytest
import torch
from PIL import Image

import tether
from dual_encoders import MAKERS, SIZES, TEXT, VISION, write_dual_encoder
from references import TEXTS, assert_alike, embeddings, halves, image_files
from tether.core.errors import InputError
from tether.core.model_digest import model_digest
from tether.core.types import ImageSpec
from tether.data import open_source
from tether.data.in_order import ordered
from tether.data.loader import Loader
from tether.models import create
from tether.models.embed import encode_images
from tether.models.encoders.wrapped import TransformersEncoder
from tether.models.features.decompose import decompose
from tether.models.features.dense import dense_image, dense_text

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::tether.models.tokenizer.TextCutWarning")]


@pytest.fixture(scope="module", params=list(MAKERS))
def kind(request, tmp_path_factory):
    """The folder, and the reference: transformers' model and processor from that folder."""
    folder = tmp_path_factory.mktemp("model") / "source"
    return folder, *write_dual_encoder(folder, request.param)


@torch.inference_mode()
def _theirs(model, processor, paths):
    seen = processor.image_processor([Image.open(path) for path in paths], return_tensors="pt")
    said = {"padding": "max_length" if "Siglip" in type(model).__name__ else True, "max_length": 16}
    if processor.tokenizer.model_max_length < 16:
        said["max_length"] = processor.tokenizer.model_max_length
    read = processor.tokenizer(TEXTS, truncation=True, return_tensors="pt", **said)
    kept = {key: value for key, value in read.items() if key != "token_type_ids" or "Bert" in type(model).__name__}
    return model.get_image_features(**seen).pooler_output, model.get_text_features(**kept).pooler_output


def test_the_same_embeddings_as_its_own_library(kind, tmp_path):
    import transformers

    folder, theirs, processor = kind
    paths = image_files(tmp_path)
    expected = _theirs(theirs, processor, paths)
    model = tether.load(folder)
    scale = 1 / theirs.temperature if hasattr(theirs, "temperature") else theirs.logit_scale.exp()
    assert model.logit_scale.item() == pytest.approx(scale.item(), rel=1e-5)
    with torch.inference_mode():
        assert_alike(embeddings(model, paths), expected)
        saved = tether.save(model, tmp_path / "saved")
        again = tether.load(saved)
        assert again.image_spec == model.image_spec
        assert model_digest(again) == model_digest(model)
        assert_alike(embeddings(again, paths), expected)
        if isinstance(model, TransformersEncoder):
            exported = tether.export(again, tmp_path / "exported", format="transformers")
            assert_alike(embeddings(tether.load(exported), paths), expected)
            reference = type(theirs).from_pretrained(exported).eval()
            assert_alike(_theirs(reference, transformers.AutoProcessor.from_pretrained(exported), paths), expected)
        assert_alike(embeddings(halves(again, model), paths), expected)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of CLIP's own vocabulary, small otherwise."""
    folder = tmp_path_factory.mktemp("clip")
    return tether.export(create("tiny", seed=1), folder, format="transformers")


@pytest.mark.parametrize("kinds", [["CLIPModel"], ["CLIPModel", "Normalize"]])
def test_a_clip_of_sentence_transformers(kinds, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "0_CLIPModel")
    listed = [
        {"idx": row, "name": str(row), "path": f"{row}_{kind}", "type": f"sentence_transformers.models.{kind}"}
        for row, kind in enumerate(kinds)
    ]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    found, plain = tether.load(tmp_path), tether.load(clip_folder)
    assert torch.equal(
        found.encode_text(found.tokenizer(TEXTS)).pooled, plain.encode_text(plain.tokenizer(TEXTS)).pooled
    )


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            [{"type": "sentence_transformers.models.Transformer", "path": ""}],
            r"expected a CLIPModel.*\['Transformer'\]",
        ),
        ([{"type": "x.CLIPModel", "path": "0"}, {"type": "x.Dense", "path": "1"}], "with Normalize at most after it"),
        ([{"type": "x.CLIPModel", "path": "../elsewhere"}], r"path: expected a folder inside.*'\.\./elsewhere'"),
        ([{"type": "x.CLIPModel"}], "path: expected a folder inside with a config.json"),
        (["CLIPModel"], "expected a CLIPModel"),
        ({"type": "CLIPModel"}, "expected a CLIPModel"),
    ],
)
def test_another_folder_of_sentence_transformers(listed, message, clip_folder, tmp_path):
    shutil.copytree(clip_folder, tmp_path / "elsewhere")
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=rf"modules\.json: .*{message}"):
        tether.load(tmp_path / "it")


JINA = {
    "model_type": "jina_clip",
    "auto_map": {"AutoModel": "jinaai/jina-clip-implementation--modeling_clip.JinaCLIPModel"},
}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (JINA, "'jina_clip' needs the code that auto_map names, and no code of a folder or a hub is run"),
        ({"model_type": "bert"}, "model_type 'bert' is not known here; known: align"),
        ({"model_type": ["clip"]}, "is not known here"),
        ([], "expected a mapping"),
        ({"model_type": "vision-text-dual-encoder"}, "vision_config: expected a mapping"),
        (
            {"model_type": "vision-text-dual-encoder", "vision_config": {"model_type": "timm_wrapper"}},
            "vision_config.model_type: unknown 'timm_wrapper'; known: clip_vision_model",
        ),
        (
            {"model_type": "align", "text_config": TEXT, "vision_config": {"num_block_repeats": [10**6]}},
            "num_block_repeats: expected at most 256 layers",
        ),
        (
            {"model_type": "align", "text_config": TEXT, "vision_config": {"depth_coefficient": 1e6}},
            "num_block_repeats: expected at most 256 layers",
        ),
        (
            {
                "model_type": "siglip2",
                "text_config": TEXT,
                "vision_config": SIZES | {"patch_size": 8, "num_patches": 16},
            },
            "image_processor_type: 'Evil' is not known here; known: CLIP",
        ),
    ],
)
def test_a_folder_that_is_no_dual_encoder(config, message, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "EvilImageProcessor"}))
    with pytest.raises(InputError, match=message) as caught:
        tether.load(tmp_path, random_weights=True)
    assert str(tmp_path / "config.json") in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": {"longest_edge": 32}}, "size: expected height and width"),
        ({"size": 10**6}, "size: expected a whole number from 1 to"),
        ({"crop_size": None, "size": {"shortest_edge": "x"}}, "size: expected a whole number"),
        ({"do_resize": False}, "do_resize: images must be resized"),
        ({"resample": 1}, r"resample: expected one of \[0, 2, 3\]"),
        ({"image_mean": "x"}, "no model can be built from it"),
    ],
)
def test_a_processor_that_cannot_be_followed(change, message, clip_folder, tmp_path):
    folder = shutil.copytree(clip_folder, tmp_path / "model")
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=message):
        tether.load(folder)


@pytest.fixture(scope="module")
def naflex(tmp_path_factory):
    folder = tmp_path_factory.mktemp("naflex")
    write_dual_encoder(folder, "siglip2")
    return tether.load(folder)


def test_images_of_several_shapes_are_embedded_in_order(naflex, tmp_path):
    paths = image_files(tmp_path)
    for path in paths:
        path.with_suffix(".txt").write_text("a cat")
    batches = list(ordered(open_source(str(tmp_path)), image_spec=naflex.image_spec, batch_size=3))
    assert [row.key for rows, _ in batches for row in rows] == [path.name for path in paths]
    assert len({tuple(pixels.shape[1:]) for _, pixels in batches}) > 1
    found = encode_images(naflex, [pixels for _, pixels in batches])
    with torch.inference_mode():
        torch.testing.assert_close(found, embeddings(naflex, paths)[0])


@pytest.mark.parametrize("shape", [(1, 3, 30, 32), (1, 3, 80, 80), (1, 3, 0, 8), (3, 32, 32), (1, 1, 32, 32)])
def test_images_that_are_no_patches(naflex, shape):
    with pytest.raises(InputError, match=r"image: expected (\(b, 3, h, w\) in|1 to 23) patches"):
        naflex.encode_image(torch.zeros(shape))


def test_a_training_batch_has_one_size(naflex, tmp_path):
    for path in image_files(tmp_path):
        path.with_suffix(".txt").write_text("a cat")
    source = open_source(str(tmp_path))
    loader = Loader(source, image_spec=naflex.image_spec, tokenizer=naflex.tokenizer, batch_size=4, seed=0)
    batch = next(iter(loader))
    assert batch.image.shape == (4, 3, *naflex.image_spec.size)
    assert naflex.encode_image(batch.image).pooled.shape == (4, 32)


def test_patches_and_their_rule_go_together():
    with pytest.raises(InputError, match="patches: expected a side and a number with resize 'patches' alone"):
        ImageSpec((32, 32), resize="patches")
    with pytest.raises(InputError, match="patches: expected"):
        ImageSpec((32, 32), patches=(8, 16))


def test_a_spec_says_only_what_is_set():
    assert repr(ImageSpec((32, 32))).endswith("interpolation='bicubic', fill=0)")  # digests of models are made of it
    assert "resized=(36, 36)" in repr(ImageSpec((32, 32), resized=(36, 36)))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("deit", "roberta"),
        ("beit", "camembert"),
        ("dinov2", "mpnet"),
        ("swin", "bert"),
        ("siglip_vision_model", "xlm-roberta"),
    ],
)
@torch.inference_mode()
def test_other_towers_of_a_vision_text_dual_encoder(image, text, tmp_path):
    import transformers

    swin = {"embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "image_size": 32, "patch_size": 4}
    towers = [
        transformers.CONFIG_MAPPING[kind](**values)
        for kind, values in ((image, swin if image == "swin" else VISION), (text, TEXT))
    ]
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(*towers, projection_dim=24)
    torch.manual_seed(0)
    theirs = transformers.VisionTextDualEncoderModel(config).eval()
    theirs.save_pretrained(tmp_path)
    model = tether.load(tmp_path)
    pixels, ids = torch.randn(2, 3, 32, 32), torch.randint(5, 64, (2, 7))
    mine = model.encode_image(pixels).pooled, model.encode_text(ids).pooled
    read = theirs.get_text_features(ids, attention_mask=torch.ones_like(ids)).pooler_output
    for found, expected in zip(mine, (theirs.get_image_features(pixels).pooler_output, read), strict=True):
        torch.testing.assert_close(found, expected)


def test_patches_and_words_of_siglip_2(naflex):
    pixels = torch.randint(0, 256, (2, 3, 16, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    seen, ids = dense_image(naflex, pixels), naflex.tokenizer(TEXTS[:2])
    assert seen.tokens.shape == (2, 10, 32)
    torch.testing.assert_close(seen.pooled, naflex.encode_image(pixels).pooled)
    torch.testing.assert_close(dense_text(naflex, ids).pooled, naflex.encode_text(ids).pooled)
    parts = decompose(naflex, pixels)
    torch.testing.assert_close(parts.total(), naflex.encode_image(pixels).unit, rtol=0, atol=1e-5)


def test_the_temperature_of_align_is_kept_in_range(tmp_path):
    write_dual_encoder(tmp_path, "align")
    model = tether.load(tmp_path)
    for start, end in ((1e-4, 100.0), (9.0, 1.0)):
        with torch.no_grad():
            model.scale.fill_(start)
        model.clamp_logit_scale_()
        assert model.logit_scale.item() == pytest.approx(end)
    model.freeze_logit_scale_()
    assert not model.logit_scale.requires_grad

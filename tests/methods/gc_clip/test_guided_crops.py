"""Guided crops: boxes and whole images, descriptions, proposers, the head, and what is refused."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from families import FAMILIES
from tether.core.errors import InputError
from tether.core.types import Batch
from tether.data import open_source
from tether.data.bad_rows import BadRows
from tether.data.boxes import sound_boxes, window_of
from tether.data.images import resize_and_crop
from tether.data.in_order import originals
from tether.methods.gc_clip.guided_crops import GuidedCrops, crop_boxes, random_boxes
from tether.methods.gc_clip.proposers import CenterBox, HeatMapBox, RandomBox, WholeImage, largest_region
from tether.models import create
from tether.models.embed import encode_texts
from tether.tasks.classify.descriptions import check_described, descriptions_of
from tether.tasks.classify.views import encode_windows, originals_of, view_spec
from tether.tasks.classify.zero_shot import ZeroShotClassifier
from views_of_classes import CLASSES, SAYS, generator, image


@pytest.fixture(scope="module")
def model():
    return create("tiny", seed=1).eval()


class TestSoundBoxes:
    def test_what_lies_outside_is_cut_off_with_a_warning(self):
        with pytest.warns(UserWarning, match="box 1 reaches beyond the image of 90 x 60 pixels"):
            found = sound_boxes(torch.tensor([[1, 2, 3, 4], [-5, 10, 200, 70]]), size=(60, 90))
        assert found.tolist() == [[1, 2, 3, 4], [0, 10, 90, 60]]

    @pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 5, 5, 9], [0, 0, torch.nan, 4]])
    def test_a_box_that_is_none(self, box):
        with pytest.raises(InputError, match=r"boxes: box 1: expected .*, got \["):
            sound_boxes(torch.tensor([[0.0, 0, 1, 1], box]), size=(60, 90))

    def test_a_side_of_no_pixel_gets_a_patch(self):
        found = sound_boxes(torch.tensor([[89.9, 2.0, 90.0, 2.3], [3.0, 3.0, 4.5, 60.0]]), size=(60, 90), least=(6, 9))
        assert found.tolist() == [[81.0, 0.0, 90.0, 6.0], [3.0, 3.0, 4.5, 60.0]]
        with pytest.warns(UserWarning, match="cut off"):
            beyond = sound_boxes(torch.tensor([[100.0, 2.0, 120.0, 9.0]]), size=(60, 90), least=(6, 9))
        assert beyond.tolist() == [[81.0, 2.0, 90.0, 9.0]]

    def test_windows_hold_every_pixel_touched(self):
        assert window_of([1.2, 0.0, 1.3, 59.1], size=(60, 90)) == (1, 0, 2, 60)
        assert window_of(torch.tensor([90.0, 60.0, 90.0, 60.0]), size=(60, 90)) == (89, 59, 90, 60)


class TestOriginals:
    def test_rows_and_pixels_are_the_sources(self):
        source = open_source("scenes:rows=7,size=64")
        for workers in (0, 3):
            batches = list(originals(source, bad=BadRows("x"), batch_size=3, workers=workers))
            assert [len(rows) for rows, _ in batches] == [3, 3, 1]
            assert [row.key for rows, _ in batches for row in rows] == [
                row.key for row in source.read(*source.blocks())
            ]
            assert all(one.shape == (3, 64, 64) for _, images in batches for one in images)

    def test_bad_rows_are_counted(self, tmp_path):
        (tmp_path / "broken.png").write_bytes(b"nothing")
        bad = BadRows("x")
        assert list(originals(open_source(str(tmp_path)), bad=bad)) == []
        assert bad.count == 1


class TestDescriptions:
    @pytest.mark.parametrize("ending", ["json", "yaml"])
    def test_files(self, tmp_path, ending):
        path = tmp_path / f"says.{ending}"
        path.write_text(json.dumps(SAYS))  # which is YAML, too
        assert descriptions_of(path) == {name: tuple(some) for name, some in SAYS.items()}

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("[]", "expected classes with a list of sentences each, got list"),
            ('{"cat": "one"}', "class 'cat': expected a list of sentences, got str"),
            ('{"cat": []}', "class 'cat': expected a list"),
            ('{"cat": ["a", 3]}', "class 'cat': sentence 2: expected text, got 3"),
            ('{"cat": [" "]}', "sentence 1: expected text"),
            ("{", "not valid JSON"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path, text, said):
        path = tmp_path / "says.json"
        path.write_text(text)
        with pytest.raises(InputError, match=re.escape(str(path))) as caught:
            descriptions_of(path)
        assert said in str(caught.value)

    def test_other_classes(self):
        with pytest.raises(InputError, match="class 'cow' has none"):
            check_described(["cat", "cow"], SAYS)
        with pytest.raises(InputError, match="'dog' is none of the 1 classes"):
            check_described(["cat"], SAYS)
        with pytest.raises(InputError, match=r"expected a \.json or \.yaml"):
            descriptions_of("says.txt")

    def test_plain_zero_shot_takes_their_mean(self, model):
        head = ZeroShotClassifier(descriptions=SAYS).prepare(model, CLASSES)
        rows = F.normalize(encode_texts(model, SAYS["sun"]), dim=1)
        torch.testing.assert_close(head.weights[2], F.normalize(rows.mean(0), dim=0))
        with pytest.raises(InputError, match="give one of the two"):
            ZeroShotClassifier(descriptions=SAYS, templates=["a {}"])


class TestCropBoxes:
    def test_multi_goes_from_the_box_to_the_image(self):
        boxes = crop_boxes(torch.tensor([[10.0, 20, 30, 40]]), size=(60, 90), n=3)
        assert boxes[0].tolist() == [[10, 20, 30, 40], [5, 10, 60, 50], [0, 0, 90, 60]]

    def test_none_is_one_with_a_margin(self):
        boxes = crop_boxes(torch.tensor([[10.0, 20, 30, 40]]), size=(60, 90), augment="none", margin=0.5)
        assert boxes.tolist() == [[[5, 10, 60, 50]]]

    def test_random_ones_hold_the_box_and_come_again(self):
        box = torch.tensor([[10.0, 20, 30, 40], [0, 0, 90, 60]])
        first, again = (random_boxes(box, n=50, size=(60, 90), generator=generator(3)) for _ in range(2))
        assert torch.equal(first, again)
        assert (first[..., :2] <= box[:, None, :2]).all()
        assert (first[..., 2:] >= box[:, None, 2:]).all()
        assert first[0].std(0).min() > 1
        with pytest.raises(InputError, match="n and a generator"):
            random_boxes(box, size=(60, 90))


class TestProposers:
    def test_controls(self):
        assert WholeImage()(image(), "cat") == (None, 0.0)
        assert CenterBox()(image(), "cat")[0].tolist() == [22.5, 15, 67.5, 45]
        boxes = [RandomBox(seed=2)(image(), label)[0] for label in ("cat", "dog", "cat")]
        assert torch.equal(boxes[0], boxes[2])
        assert not torch.equal(boxes[0], boxes[1])
        sound_boxes(torch.stack(boxes), size=(60, 90))

    def test_the_largest_region_wins(self):
        mask = np.zeros((5, 6), bool)
        mask[0, 0] = mask[1, 1] = mask[3:, 3:5] = True  # corners do not touch
        assert largest_region(mask).nonzero()[0].tolist() == [3, 3, 4, 4]
        assert largest_region(np.zeros((2, 2), bool)) is None

    @pytest.mark.parametrize("family", ["Tether", "open_clip ViT", "timm ViT", "transformers' CLIP", "RN50"])
    def test_heat_map_of_every_library(self, family, tmp_path):
        encoder = FAMILIES[family](tmp_path)
        texts = F.normalize(encode_texts(encoder, CLASSES), dim=1)
        find = HeatMapBox(encoder, names=CLASSES, texts=texts)
        heat = find.maps(image())
        torch.testing.assert_close(heat.sum(0), torch.ones_like(heat[0]), rtol=0, atol=1e-4)
        box, sure = find(image(), "dog")
        assert 0 <= sure <= 1
        sound_boxes(torch.as_tensor(box)[None], size=(60, 90))
        with pytest.raises(InputError, match="'cow'"):
            find(image(), "cow")

    def test_heat_map_finds_what_is_planted(self, model, monkeypatch):
        find = HeatMapBox(model, names=CLASSES, texts=torch.eye(3, model.dim))
        heat = torch.zeros(3, 32, 32)
        heat[1, 8:16, 4:8], heat[1, 0, 31] = 1, 1
        monkeypatch.setattr(find, "maps", lambda _: heat)
        box, sure = find(image(64, 96), "dog")
        assert box.tolist() == [12, 16, 24, 32]
        assert sure == 1


class TestGuidedCrops:
    def test_k_beyond_the_classes_and_one_candidate(self, model):
        every, one = (GuidedCrops(propose="whole", n=2, k=k).prepare(model, CLASSES) for k in (9, 1))
        full = ZeroShotClassifier().prepare(model, CLASSES).predict(resize_and_crop(image(), model.image_spec)[None])
        assert every.predict([image()]).cosine.isfinite().all()
        assert one.predict([image()]).order(top=1)[0, 0] == full.order(top=1)[0, 0]

    @pytest.mark.parametrize("box", [[5, 5, 5, 9], [9, 5, 5, 9]])
    def test_an_empty_box(self, model, box):
        with pytest.raises(InputError, match="boxes: box 0: expected x0 < x1"):
            GuidedCrops(propose=lambda *_: (box, 1.0), n=1).prepare(model, CLASSES).predict([image()])

    @pytest.mark.parametrize("pad", ["none", "square", "own"])
    def test_images_of_many_sizes(self, model, pad):
        head = GuidedCrops(propose="random", augment="random", n=2, k=2, pad=pad, batch_size=7).prepare(model, CLASSES)
        images = [image(40 + 13 * row, 90 - 9 * row, seed=row) for row in range(4)]
        together = head.predict(images).cosine
        alone = torch.cat([head.predict([one]).cosine for one in images])
        torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)

    def test_how_pixels_lie_in_memory_changes_nothing(self, model):
        planes = [image(300, 200), image(1, 5, seed=1)]
        beside = [one.permute(1, 2, 0).contiguous().permute(2, 0, 1) for one in planes]
        found = originals_of(planes)
        assert all(torch.equal(one, two) and one.stride(0) == 1 for one, two in zip(found, planes, strict=True))
        assert all(one is two for one, two in zip(originals_of(beside), beside, strict=True))
        head = GuidedCrops(n=3, k=2).prepare(model, CLASSES)
        assert torch.equal(head.predict(planes).cosine, head.predict(beside).cosine)

    def test_oracle_boxes_of_a_batch(self, model):
        head = GuidedCrops(propose="whole", augment="none", margin=0.0).prepare(model, CLASSES)
        twins = [image(), image()]  # equal pixels, other boxes
        boxes = [torch.tensor([0.0, 0, 30, 30]), torch.tensor([40.0, 20, 90, 60])]
        found = head.predict(twins, boxes=boxes).cosine
        assert not torch.allclose(found[0], found[1])
        first = GuidedCrops(propose=lambda *_: (boxes[0], 1.0), augment="none", margin=0.0).prepare(model, CLASSES)
        torch.testing.assert_close(found[:1], first.predict(twins[:1]).cosine, rtol=0, atol=1e-6)
        with pytest.raises(InputError, match="one for each of 2 images, got 1"):
            head.predict(twins, boxes=boxes[:1])

    def test_a_window_is_encoded_once(self, model, monkeypatch):
        seen = []
        encode = model.encode_image
        monkeypatch.setattr(model, "encode_image", lambda batch: seen.append(len(batch)) or encode(batch))
        rows = encode_windows(
            model, [image()], [[(0, 0, 9, 9), (0, 0, 9, 9), (1, 0, 9, 9)]], spec=view_spec(model), batch_size=8
        )[0]
        assert seen == [2]
        assert torch.equal(rows[0], rows[1])

    def test_ceiling(self, model):
        head = GuidedCrops(propose="center", n=1, k=1)
        pixels, labels = torch.stack([image(seed=row) for row in range(6)]), torch.tensor([0, 1, 2, 0, 1, 2])
        batch = Batch(pixels, torch.empty(0, 0, dtype=torch.int64), {"labels": labels})
        full = (
            ZeroShotClassifier()
            .prepare(model, CLASSES)
            .scores(
                model.encode_image(
                    torch.stack([resize_and_crop(one, model.image_spec) for one in pixels])
                ).pooled.detach()
            )
        )
        right = (full.order(top=1)[:, 0] == labels).double().mean()
        assert head.prepare(model, CLASSES, support=[batch]).ceiling == right
        assert head.calibration is not None
        assert head.prepare(model, CLASSES).ceiling is None

    def test_no_such_proposer(self, model):
        with pytest.raises(InputError, match=r"propose: 'heatmap' is no folder.*heat_map"):
            GuidedCrops(propose="heatmap").prepare(model, CLASSES)

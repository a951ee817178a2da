"""A vocabulary and a CLIP as one, words exchanged for images, and a reader that learns, writes and is kept."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from forged_state import forge
from tether.core.errors import InputError, UnsupportedModelError
from tether.data.lettering.pages import DrawnPages, draw_pages
from tether.models import create
from tether.models.encoders.causal_lm import CausalLM, small_causal_lm
from tether.models.encoders.vision_vocabulary import FILE as VOCABULARY_FILE
from tether.models.encoders.vision_vocabulary import VisionVocabulary
from tether.models.towers.clip import Clip
from tether.tasks.read import (
    AspectWarning,
    ChannelMerge,
    MergedVision,
    VisionLM,
    pretrain_vocabulary,
    splice,
)
from tether.tasks.read.vision_lm import PAGE_FILE, VOCABULARY_FOLDER

SIZE = 32
TEXTS = ("7A", "B2", "C")


def vocabulary(*, seed: int = 0, image_size: int = SIZE, channels: tuple[int, ...] = (8, 12)) -> VisionVocabulary:
    return VisionVocabulary(
        image_size=image_size,
        patch=4,
        width=16,
        depth=2,
        heads=2,
        window=3,
        global_blocks=[1],
        channels=list(channels),
        mean=(0.97,) * 3,
        std=(0.15,) * 3,
        seed=seed,
    )


def pages() -> DrawnPages:
    return draw_pages(TEXTS, size=SIZE, points=(8, 10))


def words() -> CausalLM:
    return small_causal_lm(TEXTS, width=16, layers=1, vocabulary=257, context=48)


def clip() -> Clip:
    return create("tiny", image_size=16, patch=4).eval()


def merged_reader(**settings: int) -> VisionLM:
    return VisionLM(MergedVision(clip(), vocabulary(**settings), lm_dim=16), words())


class TestVocabulary:
    def test_windows_are_padded_and_do_not_mix(self) -> None:
        net = VisionVocabulary(
            image_size=16, patch=4, width=8, depth=1, heads=1, window=3, global_blocks=[], channels=[4]
        )
        image = torch.rand(1, 3, 16, 16)
        other = image.clone()
        other[..., 12:, 12:] = 0  # the last patch, alone in the last window
        x, y = (net.blocks[0](net.patch_embed["proj"](one).permute(0, 2, 3, 1)) for one in (image, other))
        torch.testing.assert_close(x[:, :3, :3], y[:, :3, :3])
        assert not torch.equal(x[:, 3, 3], y[:, 3, 3])

    def test_positions_between_tokens_count(self) -> None:
        net, image = vocabulary(), torch.rand(1, 3, SIZE, SIZE)
        before = net(image)
        with torch.no_grad():
            net.blocks[1].attn.rel_pos_h.normal_(generator=torch.Generator().manual_seed(0))
        assert not torch.allclose(before, net(image))

    @pytest.mark.parametrize("options", [{"absolute": False}, {"relative": False}, {"qkv_bias": False}, {"window": 0}])
    def test_options(self, options: dict[str, bool]) -> None:
        net = VisionVocabulary(
            image_size=16, patch=4, width=8, depth=1, heads=2, global_blocks=[0], channels=[4, 6, 8], **options
        )
        assert net(torch.zeros(2, 3, 16, 16)).shape == (2, 1, 8)
        assert net.tokens == 1

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="divisors"):
            VisionVocabulary(image_size=30, patch=4)
        with pytest.raises(InputError, match="global_blocks"):
            VisionVocabulary(image_size=32, patch=4, width=8, depth=1, heads=1, global_blocks=[1])
        with pytest.raises(InputError, match=r"expected \(b, 3, 32, 32\)"):
            vocabulary()(torch.zeros(1, 3, 16, 16))

    def test_seeds_leave_the_generator_alone(self) -> None:
        state = torch.get_rng_state()
        one, other = vocabulary(seed=0), vocabulary(seed=1)
        assert torch.equal(state, torch.get_rng_state())
        assert not torch.equal(one.patch_embed["proj"].weight, other.patch_embed["proj"].weight)

    def test_kept(self, tmp_path: Path) -> None:
        net, image = vocabulary(), torch.rand(1, 3, SIZE, SIZE)
        assert torch.equal(VisionVocabulary.load(net.save(tmp_path))(image), net(image))
        with pytest.raises(InputError, match="no such file"):
            VisionVocabulary.load(tmp_path / "other")

    @pytest.mark.parametrize(
        ("changed", "told"),
        [
            ({"depth": 10**6}, r"depth: expected a whole number in \[1, 256\]"),
            ({"channels": []}, "channels: expected a list"),
            ({"channels": [1] * 10**5}, "channels: expected a list"),
            ({"mlp_ratio": 1e308}, "mlp_ratio: expected a number"),
            ({"image_size": 2**62}, r"size: expected 2 values, each a whole number in \[1, 8192\]"),
        ],
    )
    def test_a_forged_file(self, tmp_path: Path, changed: dict[str, object], told: str) -> None:
        path = vocabulary().save(tmp_path) / VOCABULARY_FILE
        forge(path, changed)
        with pytest.raises(InputError, match=f"^{path}: {told}"):
            VisionVocabulary.load(tmp_path)


class TestSplice:
    ids = torch.tensor([[1, 8, 8, 2, 5], [5, 5, 5, 5, 5]])

    def put(self, ids: Tensor, count: int = 2) -> Tensor:
        return splice(torch.zeros(*ids.shape, 3), ids, torch.ones(len(ids), count, 3), start=1, end=2)

    def test_all_at_once(self) -> None:
        assert self.put(self.ids)[:, :, 0].tolist() == [[0, 1, 1, 0, 0], [0] * 5]

    def test_text_alone_gives_gradients_of_zero_even_for_infinite_tokens(self) -> None:
        shown = torch.full((2, 2, 3), 7.0, requires_grad=True)
        splice(torch.zeros(2, 5, 3), self.ids, shown, start=1, end=2).sum().backward()
        assert shown.grad is not None
        assert shown.grad[0].eq(1).all()
        assert shown.grad[1].eq(0).all()

    @pytest.mark.parametrize(
        "row", [[1, 8, 8, 5, 5], [5, 8, 8, 2, 5], [1, 8, 2, 5, 5], [1, 8, 8, 8, 2], [2, 8, 8, 1, 5], [1, 2, 1, 8, 2]]
    )
    def test_refuses_other_places(self, row: list[int]) -> None:
        with pytest.raises(ValueError, match="row 1"):
            self.put(torch.tensor([self.ids[0].tolist(), row]))

    def test_refuses_shapes(self) -> None:
        with pytest.raises(InputError, match="splice: expected embeddings"):
            splice(torch.zeros(2, 5, 4), self.ids, torch.ones(2, 2, 3), start=1, end=2)


class TestMerge:
    def test_halves_lie_side_by_side(self) -> None:
        merge = ChannelMerge(3, 5, lm_dim=8)
        one, two = torch.randn(2, 4, 3), torch.randn(2, 4, 5)
        rows = merge(one, two)
        assert merge.clip is not None
        assert merge.vocabulary is not None
        assert torch.equal(rows[..., :4], merge.clip(one))
        assert torch.equal(rows[..., 4:], merge.vocabulary(two))

    def test_refuses(self) -> None:
        with pytest.raises(InputError, match="at least one"):
            ChannelMerge(None, None, lm_dim=8)
        with pytest.raises(InputError, match="even"):
            ChannelMerge(3, 5, lm_dim=7)
        with pytest.raises(InputError, match="as many"):
            ChannelMerge(3, 5, lm_dim=8)(torch.zeros(1, 4, 3), torch.zeros(1, 5, 5))
        with pytest.raises(InputError, match="no other"):
            ChannelMerge(3, None, lm_dim=8)(torch.zeros(1, 4, 3), torch.zeros(1, 4, 5))

    def test_other_grid(self) -> None:
        with pytest.raises(ValueError, match=r"map of 8 x 8, the CLIP's of 4 x 4"):
            MergedVision(clip(), vocabulary(channels=(8,)), lm_dim=16)

    def test_takes_hidden_patches_without_the_class_token(self) -> None:
        model, image = clip(), torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
        vision = MergedVision(model, None, lm_dim=16)
        found = vision.encode(vision.prepare(image)).clip
        from tether.models.features.find import tower_of

        tower = tower_of(model)
        stream = tower.embed(image)
        for index in range(len(tower.blocks) - 1):
            stream = tower.step(stream, index)
        assert found is not None
        assert torch.equal(found, stream.x[:, tower.prefix :])

    def test_refuses_a_tower_that_shows_nothing(self) -> None:
        class Sealed:
            image_spec = create("tiny").image_spec
            logit_scale = torch.zeros(())

        with pytest.raises((UnsupportedModelError, InputError)):
            MergedVision(Sealed(), None, lm_dim=16)  # pyrefly: ignore

    def test_pages_are_squeezed_whole_and_told(self) -> None:
        vision = MergedVision(None, vocabulary(), lm_dim=16)
        page = np.full((SIZE, 4 * SIZE, 3), 255, np.uint8)
        page[:, :4] = 0  # its border
        with pytest.warns(AspectWarning, match="1 of 1 images .* image 0, 128 x 32"):
            found = vision.prepare([page]).vocabulary
        assert found is not None
        assert found.shape[2:] == (SIZE, SIZE)
        assert found[0, :, :, 0].max() < 100
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            vision.prepare([page[:, : SIZE + 4]])


class TestReader:
    def test_learns_the_maps_and_the_language_model_alone(self) -> None:
        reader = merged_reader()
        before = {name: value.clone() for name, value in reader.state_dict().items()}
        reader.fit(pages().image, TEXTS, prompts="read", steps=3, batch_size=2)
        moved = {name for name, value in reader.state_dict().items() if not torch.equal(value, before[name])}
        assert any(name.startswith("vision.merge") for name in moved)
        assert any(name.startswith("language_model") for name in moved)
        assert not any(name.startswith("vision.vocabulary") for name in moved)

    def test_texts_alone_may_stand_among_images(self) -> None:
        reader = merged_reader()
        image = pages().image[0].permute(1, 2, 0).numpy()
        reader.fit([None, image], ["A", "B"], prompts=["x", "y z"], steps=2, batch_size=2)
        with pytest.raises(InputError, match="at least one"):
            reader.fit([None], ["A"], steps=1)

    def test_only_answers_are_learnt(self) -> None:
        reader = merged_reader()
        ids, labels = reader.texts(["ab", ""], ["c", "de"], shown=[True, False])
        for row, answer in enumerate(("c", "de")):
            kept = labels[row][labels[row] != -100]
            assert reader.language_model.texts(kept[None]) == [answer]
        assert int((ids[0] == reader.place).sum()) == reader.vision.tokens
        assert not (ids[1] == reader.start).any()

    def test_reads_a_few_pages_by_heart(self) -> None:
        shown = pages()
        reader = pretrain_vocabulary(
            vocabulary(), words(), shown, steps=300, batch_size=3, learning_rate=1e-2, longest=8
        )
        assert reader.generate(shown.image, longest=8).words == TEXTS

    def test_pretraining_moves_the_vocabulary_and_takes_images_without_text(self) -> None:
        net = vocabulary()
        before = net.patch_embed["proj"].weight.clone()
        blank = torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8)
        pretrain_vocabulary(net, words(), pages(), negatives=blank, steps=2, batch_size=5, longest=10)
        assert not torch.equal(before, net.patch_embed["proj"].weight)

    def test_language_model_learns_words_first_while_the_vocabulary_rests(self) -> None:
        net, language = vocabulary(), words()
        parts = ("patch_embed.proj.weight", net), ("model.model.layers.0.mlp.up_proj.weight", language)
        before = [part.get_parameter(name).detach().clone() for name, part in parts]
        moved: list[list[bool]] = []

        def look() -> bool:
            found = zip(parts, before, strict=True)
            moved.append([not torch.equal(part.get_parameter(name), old) for (name, part), old in found])
            return False

        pretrain_vocabulary(net, language, pages(), words_steps=2, steps=1, batch_size=3, should_stop=look)
        assert moved == [[False, True], [False, True], [True, True]]

    def test_image_tokens_come_through_a_small_language_model(self) -> None:
        """By weights of 0.02 what is written hardly depends on an image: the maps learn words in its place."""
        shown = torch.randn(8, 4, 64, generator=torch.Generator().manual_seed(0))
        spread = {}
        for std in (0.02, 0.125):
            model = small_causal_lm(TEXTS, width=64, vocabulary=257, std=std)
            assert model.model.get_parameter("model.layers.1.mlp.down_proj.weight").std().item() == pytest.approx(
                std, rel=0.05
            )
            asked = model.embed(model.tokens(["A"])[:, :1]).expand(8, 1, 64)
            logits = model.logits(torch.cat([0.3 * shown, asked], dim=1))[:, -1].detach()
            spread[std] = float(logits.std(0).mean() / logits.std())
        assert spread[0.02] < 0.6
        assert spread[0.125] > 0.8

    def test_kept_in_three_parts(self, tmp_path: Path) -> None:
        reader = merged_reader()
        shown = pages().image
        reader.fit(shown, TEXTS, steps=2, batch_size=2)
        reader.save(tmp_path)
        found = VisionLM.load(tmp_path, model=clip())
        one, other = (some.generate(shown, longest=4) for some in (reader, found))
        assert one.words == other.words
        assert np.array_equal(one.confidence, other.confidence)
        alone = VisionVocabulary.load(tmp_path / VOCABULARY_FOLDER)
        assert reader.vision.vocabulary is not None
        assert torch.equal(alone.patch_embed["proj"].weight, reader.vision.vocabulary.patch_embed["proj"].weight)
        with pytest.raises(InputError, match="digest"):
            VisionLM.load(tmp_path, model=create("tiny", image_size=16, patch=4, seed=1).eval())
        for changed, told in (({"prompt": 5}, "prompt: expected str, got 5"), ({"longest": "x"}, "longest: expected")):
            forge(reader.save(tmp_path) / PAGE_FILE, changed)
            with pytest.raises(InputError, match=f"^{tmp_path / PAGE_FILE}: {told}"):
                VisionLM.load(tmp_path, model=clip())

    def test_an_answer_depends_on_no_neighbour(self) -> None:
        reader = merged_reader().eval()
        shown = pages().image
        together = reader.generate(shown, longest=4, batch_size=3).words
        assert together == reader.generate(shown, longest=4, batch_size=1).words

    def test_resumes(self, tmp_path: Path) -> None:
        one, other = merged_reader(), merged_reader()
        one.fit(pages().image, TEXTS, steps=4, batch_size=2)
        other.fit(pages().image, TEXTS, steps=4, batch_size=2, folder=tmp_path)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))

    def test_refuses(self) -> None:
        reader = merged_reader()
        with pytest.raises(InputError, match="one for each of 3 images"):
            reader.fit(pages().image, TEXTS[:2], steps=1)
        with pytest.raises(InputError, match="context"):
            reader.texts(["a" * 60], None, shown=[True])
        with pytest.raises(InputError, match="rows of 16"):
            VisionLM(MergedVision(None, vocabulary(), lm_dim=8), words())

"""Fields with codes: what codes can change, what rays see, learning, edits, inversion, files."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tether.core.cameras import Lens, camera_rays, orbit_pose
from tether.core.errors import InputError, StoppedError
from tether.data.posed import PosedViews, read_posed
from tether.data.sets.solids import COLOURS, SHAPES, Solid, SolidsSet, solid_view, solid_views
from tether.generation.painting import PaintingProgress
from tether.methods.clip_nerf import (
    Codes,
    ConditionalField,
    FieldEditor,
    FieldScenes,
    March,
    invert_view,
    learn_scenes,
    march_rays,
    patch_grid,
    positional_encoding,
    recolour,
    sample_pdf,
    volume_render,
)
from tether.models import create

RAY = torch.tensor([[0.0, 0.0, -1.0]])


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def views() -> PosedViews:
    return solid_views(["red cone", "blue box"], poses=3, size=8)


@pytest.fixture
def scenes(views: PosedViews) -> FieldScenes:
    return FieldScenes(ConditionalField(3, 2, 2, width=8, depth=1), views, march=March(samples=4))


class TestVolume:
    def test_an_empty_ray_is_white_and_infinitely_far_with_a_gradient(self) -> None:
        raw = torch.full((1, 3, 4), -1.0, requires_grad=True)
        seen = volume_render(raw, torch.arange(3.0), RAY)
        assert seen.rgb.tolist() == [[1, 1, 1]]
        assert (seen.acc.item(), seen.depth.item(), seen.disparity.item()) == (0, 0, 0)
        (seen.disparity.sum() + seen.rgb.sum()).backward()
        assert raw.grad is not None
        assert raw.grad.isfinite().all()

    def test_half_precision_has_no_nan(self) -> None:
        raw = torch.tensor([[[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, -1.0]]]).half()
        seen = volume_render(raw, torch.tensor([1.0, 2.0]).half(), torch.ones(1, 3).half())
        assert seen.rgb.isfinite().all()
        assert seen.rgb.dtype == torch.float32

    def test_length_of_a_direction_counts_as_way(self) -> None:
        raw, z = torch.randn(5, 4, generator=draws()), torch.arange(5.0)
        long = volume_render(raw, z, 2 * RAY[0])
        assert torch.allclose(long.weights, volume_render(raw, 2 * z, RAY[0]).weights)

    @pytest.mark.parametrize(
        ("raw", "z", "dirs", "said"),
        [
            (torch.zeros(1, 2, 4), torch.tensor([[1.0, 0.0]]), RAY, r"z, ray \(0\): expected ascending"),
            (torch.zeros(1, 2, 4), torch.tensor([0.0, 1.0]), 0 * RAY, "expected a length above 0"),
            (torch.zeros(1, 2, 4), torch.tensor([0.0, math.nan]), RAY, "expected ascending"),
            (torch.zeros(1, 0, 4), torch.zeros(1, 0), RAY, "at least one sample"),
            (torch.zeros(1, 2, 3), torch.zeros(1, 2), RAY, "raw: expected"),
            (torch.zeros(1, 2, 4), torch.zeros(1, 3), RAY, "z, dirs: expected"),
        ],
    )
    def test_bad_rays_are_refused(self, raw, z, dirs, said) -> None:
        with pytest.raises(InputError, match=said):
            volume_render(raw, z, dirs)

    def test_drawn_places_lie_where_the_weights_are(self) -> None:
        bins, weights = torch.linspace(0, 4, 5).expand(2, 5), torch.tensor([[0.0, 0, 1, 0], [0.5, 0, 0, 0.5]])
        found = sample_pdf(bins, weights, 400, generator=draws())
        assert ((found[0] > 2) & (found[0] < 3)).float().mean() > 0.99
        assert abs(found[1].lt(1).float().mean() - 0.5) < 0.1
        assert torch.equal(found, sample_pdf(bins, weights, 400, generator=draws()))
        with pytest.raises(InputError, match="generator"):
            sample_pdf(bins, weights, 4)
        with pytest.raises(InputError, match="bins, weights"):
            sample_pdf(bins, weights[:, 1:], 4, det=True)

    def test_an_encoding_of_nothing_is_refused(self) -> None:
        with pytest.raises(InputError, match="freqs"):
            positional_encoding(torch.zeros(1, 3), 0, include_input=False)

    @pytest.mark.parametrize("iteration", [0, 200_000])
    def test_patches_stay_in_the_view(self, iteration: int) -> None:
        grids = torch.stack([patch_grid(5, iteration, generator=draws(seed)) for seed in range(50)])
        assert grids.abs().max() <= 1 + 1e-6
        sides = (grids[:, -1, -1] - grids[:, 0, 0]) / 2
        assert (sides[:, 0] - sides[:, 1]).abs().max() < 1e-6
        assert sides.min() >= (0.9 if not iteration else 0.5) - 1e-6
        with pytest.raises(InputError, match="n: expected"):
            patch_grid(0, 0, generator=draws())


class TestField:
    def test_appearance_cannot_move_the_silhouette_by_construction(self, scenes: FieldScenes) -> None:
        """An identity, not evidence: the density never sees that code."""
        codes = scenes.codes(0)
        other = Codes(codes.shape, codes.appearance + 100)
        one, two = (scenes.view(some, scenes.poses[0]) for some in (codes, other))
        assert torch.equal(one.acc, two.acc)
        assert not torch.equal(one.image, two.image)
        moved = scenes.view(Codes(codes.shape + 5, codes.appearance), scenes.poses[0])
        assert not torch.equal(one.acc, moved.acc)

    def test_the_change_of_an_encoding_is_bounded(self) -> None:
        field = ConditionalField(2, 2, generator=draws())
        x = torch.randn(7, 3, generator=draws())
        plain = positional_encoding(x, 6, include_input=False)
        assert (field.deformed(x, torch.full((2,), 1e4)) - plain).abs().max() <= 1
        assert torch.equal(ConditionalField(2, 2, generator=draws()).density.weight, field.density.weight)

    def test_bad_codes_and_directions_are_refused(self) -> None:
        field = ConditionalField(2, 3)
        _, feature = field.density_feature(torch.zeros(4, 3), torch.zeros(2))
        with pytest.raises(InputError, match=r"z_s: expected \(..., 2\)"):
            field.density_feature(torch.zeros(4, 3), torch.zeros(3))
        with pytest.raises(InputError, match="z_a"):
            field.color(feature, torch.ones(4, 3), torch.zeros(2))
        with pytest.raises(InputError, match="view: expected"):
            field.color(feature, torch.zeros(4, 3), torch.zeros(3))

    def test_a_code_of_each_ray_is_its_own(self) -> None:
        field, march = ConditionalField(3, 2, 2, width=8, depth=1, generator=draws()), March(samples=4, importance=3)
        codes = Codes(torch.randn(6, 3, generator=draws()), torch.randn(6, 2, generator=draws(1)))
        begin, way = torch.tensor([0.0, 0, 4]).expand(6, 3), torch.tensor([0.1, 0, -1]).expand(6, 3)
        seen = march_rays(field, codes, begin, way, march)
        for row in range(6):
            alone = march_rays(field, Codes(codes.shape[row], codes.appearance[row]), begin[:1], way[:1], march)
            assert torch.allclose(alone.rgb[0], seen.rgb[row], atol=1e-6)
        assert seen.coarse is not None
        assert not torch.equal(seen.coarse, seen.rgb)

    def test_rays_past_the_ball_see_white_and_still_follow_the_field(self) -> None:
        field, away = ConditionalField(2, 2), torch.tensor([[0.0, 9, 4]])
        seen = march_rays(field, Codes(torch.zeros(2), torch.zeros(2)), away, RAY, March(importance=2))
        assert seen.rgb.tolist() == [[1, 1, 1]]
        seen.rgb.sum().backward()


class TestScenes:
    def test_learning_goes_on_bit_for_bit_and_lowers_the_error(self, views: PosedViews) -> None:
        def new() -> FieldScenes:
            return FieldScenes(ConditionalField(3, 2, 2, width=8, depth=1), views, march=March(samples=4))

        whole, halved, progress = new(), new(), PaintingProgress()
        losses = learn_scenes(whole, views, steps=40, rays=64)
        assert sum(losses[-5:]) < sum(losses[:5])
        with pytest.raises(StoppedError):
            learn_scenes(halved, views, steps=40, rays=64, progress=progress, should_stop=lambda: progress.step == 15)
        assert learn_scenes(halved, views, steps=40, rays=64, progress=progress) == losses
        assert all(torch.equal(whole.state_dict()[name], value) for name, value in halved.state_dict().items())

    def test_two_passes_with_a_field_each(self, views: PosedViews, tmp_path: Path) -> None:
        coarse, fine = (ConditionalField(3, 2, 2, width=8, depth=1, generator=draws(seed)) for seed in (1, 2))
        scenes = FieldScenes(coarse, views, march=March(samples=4, importance=4), fine=fine)
        before = {name: value.clone() for name, value in scenes.state_dict().items()}
        learn_scenes(scenes, views, steps=2, rays=64)
        for name in ("field.rgb.weight", "fine.rgb.weight"):
            assert not torch.equal(scenes.state_dict()[name], before[name])
        scenes.save(tmp_path / "scenes.safetensors")
        again = FieldScenes.load(tmp_path / "scenes.safetensors")
        assert torch.equal(*(one.view(one.codes("blue box"), one.poses[1]).image for one in (scenes, again)))
        with pytest.raises(InputError, match="fine: expected"):
            FieldScenes(coarse, views, fine=fine)

    def test_other_views_scenes_and_files_are_refused(self, scenes: FieldScenes, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="views: expected those of 2 scenes"):
            learn_scenes(scenes, solid_views(["red cone", "red box"], poses=1, size=8), steps=1)
        for scene in ("green cone", 2, -1):
            with pytest.raises(InputError, match="scene: expected one of 2"):
                scenes.codes(scene)
        (tmp_path / "text").write_text("no")
        with pytest.raises(InputError, match="not a safetensors file"):
            FieldScenes.load(tmp_path / "text")
        plain, arrays = scenes.plain(), scenes.arrays()
        field = plain["field"]
        for changes, said in (
            ({"field": {**field, "depth": 10**9}}, "depth: expected"),
            ({"field": {**field, "width": 4096}}, "expected"),
            ({"lens": [10**9, 10**9, 1]}, "height: expected"),
            ({"march": [1, 10**12, 0]}, "samples: expected"),
            ({"names": None}, "a field with its scenes"),
        ):
            with pytest.raises(InputError, match=said):
                FieldScenes.of_plain({**plain, **changes}, arrays, where="x")
        with pytest.raises(InputError, match=r"shape: expected finite numbers"):
            FieldScenes.of_plain(plain, {**arrays, "shape": arrays["shape"] * np.nan}, where="x")


class TestEdits:
    def test_a_map_learns_while_all_else_rests_and_edits_what_it_is_asked(self, scenes: FieldScenes) -> None:
        editor = FieldEditor(scenes, create("tiny").eval())
        before = {name: value.clone() for name, value in editor.state_dict().items()}
        texts = [["a red box"], ["a blue cone"]]
        losses = editor.learn_(texts, which="shape", steps=2, images=1, height=6, keep=0.1)
        assert len(losses) == 2
        moved = {name for name, value in editor.state_dict().items() if not torch.equal(value, before[name])}
        assert moved
        assert all(name.startswith("shape.layers") for name in moved)
        assert all(value.requires_grad for value in scenes.parameters())
        codes = scenes.codes(0)
        shape = editor.edit("a blue cone", codes, which="shape")
        assert torch.equal(shape.appearance, codes.appearance)
        assert not torch.equal(shape.shape, codes.shape)
        both = editor.edit("a blue cone", codes, which="both")
        assert torch.equal(both.shape, shape.shape)
        assert torch.equal(both.appearance, editor.edit("a blue cone", codes).appearance)
        assert editor.edit(torch.rand(3, 8, 8, generator=draws()), codes).appearance.isfinite().all()

    def test_bad_edits_are_refused(self, scenes: FieldScenes) -> None:
        editor, codes = FieldEditor(scenes, create("tiny").eval()), scenes.codes(0)
        with pytest.raises(InputError, match="prompt: expected a text with words"):
            editor.edit(" ", codes)
        with pytest.raises(InputError, match="which: expected"):
            editor.edit("a cone", codes, which="size")
        with pytest.raises(InputError, match="prompt: expected a text or an image"):
            editor.edit(torch.zeros(8, 8), codes)
        for prompts, said in (
            ([], "scene 0: expected at least one"),
            ("a cone", "prompts: expected"),
            ([["a cone"]], "a list for each of 2"),
            ([["a cone"], [" "]], "scene 1: expected"),
        ):
            with pytest.raises(InputError, match=said):
                editor.learn_(prompts, which="shape")
        with pytest.raises(InputError, match="code: expected"):
            editor.edit("a cone", Codes(codes.appearance, codes.appearance), which="shape")

    def test_a_file_goes_with_its_encoder(self, scenes: FieldScenes, tmp_path: Path) -> None:
        model, path = create("tiny").eval(), tmp_path / "editor.safetensors"
        editor = FieldEditor(scenes, model, seed=3)
        editor.save(path)
        again = FieldEditor.load(path, model=model)
        codes = scenes.codes(1)
        assert torch.equal(editor.edit("a cone", codes).appearance, again.edit("a cone", codes).appearance)
        with pytest.raises(InputError, match="not on this one of digest"):
            FieldEditor.load(path, model=create("tiny", seed=1).eval())
        scenes.save(path)
        with pytest.raises(InputError, match="expected the state of a field with maps"):
            FieldEditor.load(path, model=model)

    def test_recolouring_moves_the_named_layers_of_a_copy(self, views: PosedViews) -> None:
        fields = [ConditionalField(3, 2, 2, width=8, depth=1, generator=draws(seed)) for seed in (1, 2)]
        scenes = FieldScenes(fields[0], views, march=March(samples=4, importance=2), fine=fields[1])
        model = create("tiny").eval()
        found = recolour(scenes, views, "blue", model=model, scene="blue box", steps=2, patch=4)
        other = {
            name for name, value in found.state_dict().items() if not torch.equal(value, scenes.state_dict()[name])
        }
        assert other == {f"{one}.rgb.{kind}" for one in ("field", "fine") for kind in ("weight", "bias")}
        codes = scenes.codes(1)
        assert torch.equal(found.view(codes, views.poses[0]).acc, scenes.view(codes, views.poses[0]).acc)
        with pytest.raises(InputError, match="views: expected some of scene"):
            recolour(scenes, solid_views(["red cone"], poses=1, size=8), "blue", model=model, scene=1)
        with pytest.raises(InputError, match="prompt: expected"):
            recolour(scenes, views, " ", model=model)


class TestInversion:
    def test_one_of_three_moves_a_step_and_the_image_gets_nearer(self, scenes: FieldScenes, views: PosedViews) -> None:
        learn_scenes(scenes, views, steps=60, rays=64)
        wanted = views.images[4] / 255
        mean = scenes.view(scenes.mean_codes(), views.poses[4]).image.detach()
        found = invert_view(scenes, wanted, steps=60, start=views.poses[4], model=create("tiny").eval())
        assert found.psnr > -10 * math.log10(float((mean - wanted).square().mean()))
        assert set(found.losses) == {"photo", "perceptual"}
        turn = found.pose[:3, :3]
        assert torch.allclose(turn @ turn.T, torch.eye(3), atol=1e-5)
        only = invert_view(scenes, wanted, steps=1, noise=0.0)
        assert torch.equal(only.codes.shape, scenes.mean_codes().shape)  # the pose is the first to move
        two = invert_view(scenes, wanted, steps=2, noise=0.0)
        assert not torch.equal(two.codes.shape, only.codes.shape)
        assert torch.equal(two.codes.appearance, only.codes.appearance)

    def test_other_images_are_refused(self, scenes: FieldScenes) -> None:
        for image in (torch.zeros(3, 9, 8), torch.full((3, 8, 8), 2.0), torch.full((3, 8, 8), math.nan)):
            with pytest.raises(InputError, match="image: expected"):
                invert_view(scenes, image, steps=1)


class TestSolids:
    @pytest.mark.parametrize("shape", SHAPES)
    def test_a_solid_stays_in_its_ball_and_has_its_colour(self, shape: str) -> None:
        lens = Lens.of_angle(0.54, height=24, width=24)
        for turn in (0, 50, 170):
            seen = solid_view(Solid(shape, "green"), orbit_pose(turn, 25), lens)
            assert 0.1 < seen.mask.float().mean() < 0.6
            assert (seen.pixels[:, 0] == 255).all()
            mean = seen.pixels[:, seen.mask].float().mean(dim=1) / 255
            nearest = min(
                COLOURS, key=lambda name: float((torch.tensor(COLOURS[name]) - mean / mean.max() * 0.7).norm())
            )
            assert nearest == "green"
            half = solid_view(Solid(shape, "green", 0.5), orbit_pose(turn, 25), lens)
            assert half.mask.sum() < 0.4 * seen.mask.sum()

    def test_a_box_is_where_its_corners_are_projected(self) -> None:
        lens, pose = Lens.of_angle(0.54, height=64, width=64), orbit_pose(35, 30)
        mask = solid_view(Solid("box", "red"), pose, lens).mask
        corners = torch.cartesian_prod(*(torch.tensor([-side, side]) for side in (0.85, 0.4, 0.3)))
        seen = (corners - pose[:3, 3]) @ pose[:3, :3]
        x = seen[:, 0] / -seen[:, 2] * lens.focal + 32
        columns = mask.any(dim=0).nonzero()
        assert abs(float(columns.min()) - float(x.min())) < 1.5
        assert abs(float(columns.max()) + 1 - float(x.max())) < 1.5

    def test_rows_are_the_same_each_time(self) -> None:
        rows = [SolidsSet(rows=4, size=16, captions="several", seed=3).row(2) for _ in range(2)]
        assert (rows[0].image == rows[1].image).all()
        assert rows[0].texts == (f"a {rows[0].meta['colour']} {rows[0].meta['shape']}", *rows[0].texts[1:])
        with pytest.raises(InputError, match="colour and a shape"):
            solid_views(["red teapot"], poses=1, size=8)

    def test_rays_go_through_the_middle_of_the_view(self) -> None:
        begin, way = camera_rays(orbit_pose(70, 20, 3.0), Lens(3, 3, 2.0))
        middle = begin[1, 1] + 3 * way[1, 1]
        assert middle.abs().max() < 1e-6
        assert way[0, 1, 1] > way[2, 1, 1]  # up is up


class TestPosed:
    def written(self, folder: Path, **changes: object) -> Path:
        folder.mkdir()
        for number in range(2):
            Image.new("RGBA", (6, 4), (255, 0, 0, 0 if number else 255)).save(folder / f"r_{number}.png")
        frames = [
            {"file_path": f"./r_{number}", "transform_matrix": orbit_pose(90 * number, 10).tolist()}
            for number in (0, 1)
        ]
        (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": 0.5, "frames": frames, **changes}))
        return folder

    def test_folders_as_for_other_fields(self, tmp_path: Path) -> None:
        one = read_posed(self.written(tmp_path / "a"))
        assert one.images[:, :, 0, 0].tolist() == [[255, 0, 0], [255, 255, 255]]
        assert one.lens.focal == pytest.approx(3 / math.tan(0.25))
        self.written(tmp_path / "b", fl_x=12.0, w=12, camera_angle_x=None)
        with pytest.raises(InputError, match="expected one camera"):
            read_posed(tmp_path)
        (tmp_path / "b" / "transforms.json").write_text((tmp_path / "a" / "transforms.json").read_text())
        both = read_posed(tmp_path, height=2)
        assert both.names == ("a", "b")
        assert both.scenes.tolist() == [0, 0, 1, 1]
        assert (both.lens.height, both.lens.width, both.lens.focal) == (2, 3, pytest.approx(1.5 / math.tan(0.25)))

    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"frames": []}, "frames: expected a list"),
            ({"frames": [{"file_path": "r_9"}]}, "frames, 0: file_path: no such image"),
            ({"frames": [{"file_path": "../x"}]}, "expected an image in"),
            ({"frames": [{"file_path": 3}]}, "expected the path of an image"),
            ({"frames": [{"file_path": "r_0", "transform_matrix": [[1]]}]}, "transform_matrix: expected 4 rows"),
            ({"frames": [{"file_path": "r_0", "transform_matrix": "no"}]}, "transform_matrix: expected 4 rows"),
            ({"camera_angle_x": "wide"}, "expected camera_angle_x"),
            ({"camera_angle_x": None, "fl_x": 10**400}, "expected camera_angle_x"),
            ({"fl_x": 4, "w": 10**400, "camera_angle_x": None}, "expected camera_angle_x"),
            ({"frames": [{"file_path": "r_0", "transform_matrix": [[10**400] * 4] * 4}]}, "expected 4 rows"),
            ({"frames": [{"file_path": "a" * 5000}]}, "no such image"),
        ],
    )
    def test_bad_files_are_named(self, tmp_path: Path, changes: dict, said: str) -> None:
        Image.new("RGB", (6, 4)).save(tmp_path / "x.png")
        with pytest.raises(InputError, match=said):
            read_posed(self.written(tmp_path / "a", **changes))
        with pytest.raises(InputError, match=r"expected transforms\.json"):
            read_posed(tmp_path / "nowhere")

    def test_images_are_made_smaller_only(self, tmp_path: Path) -> None:
        folder = self.written(tmp_path / "a")
        for height, said in ((0, "height: expected"), (5, "height: expected at most the 4 pixels")):
            with pytest.raises(InputError, match=said):
                read_posed(folder, height=height)

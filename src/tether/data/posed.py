"""Images with the cameras that took them: folders with ``transforms.json``, as data sets for radiance fields have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeGuard

import torch
import torch.nn.functional as F
from annotated_types import Ge, Le
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from tether.core.atomic_io import parse_json, read_text
from tether.core.cameras import Lens
from tether.core.errors import InputError
from tether.core.ranges import checked
from tether.data.images import decode

_FILES = ("transforms.json", "transforms_train.json")
_ENDINGS = ("", ".png", ".jpg", ".jpeg")
_MOST = 2**31
"""Bytes of pixels that are read at most."""


@dataclass(frozen=True, slots=True)
class PosedViews:
    """Images of one or several scenes, all taken by one camera.

    Attributes:
        images: on white.
        poses: from the camera (right, up, back) to the world.
        lens: of the camera, in pixels of the images.
        scenes: number of each image's scene, from 0 without gaps.
        names: of the scenes.

    Raises:
        InputError: tensors that do not go together, or poses that are not finite.
    """

    images: UInt8[Tensor, "n 3 h w"]
    poses: Float[Tensor, "n 4 4"]
    lens: Lens
    scenes: Int[Tensor, " n"]
    names: tuple[str, ...] = ("scene",)

    def __post_init__(self) -> None:
        """Refuse what does not go together."""
        count = len(self.images)
        wanted = (count, 3, self.lens.height, self.lens.width)
        if not count or tuple(self.images.shape) != wanted or self.images.dtype != torch.uint8:
            found = f"{tuple(self.images.shape)} of {self.images.dtype}"
            raise InputError(f"images: expected {wanted} uint8, at least one, got {found}")
        if tuple(self.poses.shape) != (count, 4, 4) or not bool(self.poses.isfinite().all()):
            raise InputError(f"poses: expected {(count, 4, 4)} finite numbers, got {tuple(self.poses.shape)}")
        known = sorted(set(self.scenes.tolist()))
        if len(self.scenes) != count or known != list(range(len(self.names))):
            raise InputError(f"scenes: expected a number from 0 to {len(self.names) - 1} for each, each one used")


@checked
def read_posed(folder: Path | str, *, height: Annotated[int, Ge(1), Le(8192)] | None = None) -> PosedViews:
    """Read views with poses.

    A folder with ``transforms.json`` (or ``transforms_train.json``) is one scene; one whose subfolders have such a file
    is as many scenes, by name. The file has ``camera_angle_x`` in radians or ``fl_x`` in pixels, and ``frames`` with
    ``file_path`` (the ending may be missing) and ``transform_matrix``, as Blender's and nerfstudio's do. Transparent
    pixels become white; distortion of lenses is not undone. Poses stay as they are: the scene should lie in a ball
    around the origin.

    Args:
        folder: where.
        height: of the images, to which they are made smaller; None leaves them.

    Raises:
        InputError: no such file, a key that is missing or of another kind, an image that is missing, outside of the
            folder or of another size than the first, or a height above that of the images.
    """
    root = Path(folder)
    places = [root] if _listed(root) else sorted(path for path in root.glob("*") if path.is_dir() and _listed(path))
    if not places:
        raise InputError(f"{root}: expected {_FILES[0]} in it or in its subfolders, found none")
    images, poses, scenes, focals = list[Tensor](), list[Tensor](), list[int](), list[float]()
    for scene, place in enumerate(places):
        path = _listed(place)
        assert path is not None
        told = parse_json(read_text(path), where=str(path))
        frames = told.get("frames") if isinstance(told, dict) else None
        if not isinstance(frames, list) or not frames:
            raise InputError(f"{path}: frames: expected a list of at least one frame")
        for number, frame in enumerate(frames):
            where = f"{path}: frames, {number}"
            image = decode(_image(place, frame, where=where))
            if height is not None and height > image.shape[1]:
                raise InputError(f"height: expected at most the {image.shape[1]} pixels of {where}, got {height}")
            focals.append(
                _focal(told, width=image.shape[2], where=str(path)) * (height or image.shape[1]) / image.shape[1]
            )
            images.append(_shrunk(image, height))
            if images[-1].shape != images[0].shape:
                sizes = f"{tuple(images[0].shape[1:])}, got {tuple(images[-1].shape[1:])}"
                raise InputError(f"{where}: expected the size of the first image, {sizes}")
            if images[-1].numel() * len(images) > _MOST:
                raise InputError(f"{where}: more than {_MOST >> 30} GB of pixels; give a smaller height")
            poses.append(_pose(frame.get("transform_matrix"), where=where))
            scenes.append(scene)
    if max(focals) > 1.001 * min(focals):
        raise InputError(
            f"{root}: expected one camera, got focal lengths from {min(focals):g} to {max(focals):g} pixels"
        )
    lens = Lens(images[0].shape[1], images[0].shape[2], focals[0])
    return PosedViews(
        torch.stack(images), torch.stack(poses), lens, torch.tensor(scenes), tuple(place.name for place in places)
    )


def _listed(folder: Path) -> Path | None:
    return next((folder / name for name in _FILES if (folder / name).is_file()), None)


def _image(folder: Path, frame: Any, *, where: str) -> Path:
    said = frame.get("file_path") if isinstance(frame, dict) else None
    if not isinstance(said, str) or not said:
        raise InputError(f"{where}: file_path: expected the path of an image, got {said!r:.80}")
    for ending in _ENDINGS:
        path = folder / (said + ending)
        if _is_file(path):
            if not path.resolve().is_relative_to(folder.resolve()):
                raise InputError(f"{where}: file_path: expected an image in {folder}, got {said!r:.80}")
            return path
    raise InputError(f"{where}: file_path: no such image: {said!r:.80}")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long for the disk, or no name at all
        return False


def _focal(told: dict[str, Any], *, width: int, where: str) -> float:
    angle, focal, known = told.get("camera_angle_x"), told.get("fl_x"), told.get("w", width)
    if _plain(focal) and _plain(known):
        return float(focal) * width / known
    if _plain(angle) and angle < 3.14:
        return Lens.of_angle(float(angle), height=1, width=width).focal
    raise InputError(f"{where}: expected camera_angle_x in radians or fl_x in pixels, got {angle!r:.40}, {focal!r:.40}")


def _plain(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and 0 < value < 1e9


def _shrunk(image: Tensor, height: int | None) -> Tensor:
    if height is None or height == image.shape[1]:
        return image
    size = (height, max(1, round(image.shape[2] * height / image.shape[1])))
    smaller = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return smaller.round().to(torch.uint8)


def _pose(given: Any, *, where: str) -> Tensor:
    try:
        pose = torch.tensor(given, dtype=torch.float32)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InputError(f"{where}: transform_matrix: expected 4 rows of 4 numbers: {error!s:.200}") from error
    if pose.shape == (3, 4):
        pose = torch.cat([pose, torch.tensor([[0.0, 0, 0, 1]])])
    if pose.shape != (4, 4) or not bool(pose.isfinite().all()):
        raise InputError(f"{where}: transform_matrix: expected 4 rows of 4 finite numbers, got {tuple(pose.shape)}")
    return pose

"""How far each pixel of a scene lies and which way it faces: every thing is a dome on a wall."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from tether.data.sets.scenes.render import RenderedScene
from tether.data.sets.scenes.world import SHAPES, Scene

_STEEPEST = 0.95  # of the normal's part along the wall


@dataclass(frozen=True, slots=True)
class Relief:
    """The third dimension of a scene, which its pixels do not show but its things' sizes and outlines tell.

    Attributes:
        depth: (h, w), 1 on the wall, and the smaller the nearer: large things stand out farther.
        normals: (h, w, 3) of length 1: x to the right, y down, z to who looks.
        classes: (h, w), 0 on the wall and 1 and up for the shapes of ``SHAPES``, 11 classes in all.
    """

    depth: Float[np.ndarray, "h w"]
    normals: Float[np.ndarray, "h w 3"]
    classes: UInt8[np.ndarray, "h w"]


def relief(scene: Scene, image: RenderedScene) -> Relief:
    """The relief of a rendered scene; what lies over the things, lettering and defects, is flat on them."""
    size = image.labels.shape[0]
    depth = np.ones((size, size), np.float32)
    normals = np.zeros((size, size, 3), np.float32)
    classes = np.zeros((size, size), np.uint8)
    normals[..., 2] = 1
    y, x = np.mgrid[:size, :size] + 0.5
    for index, thing in enumerate(scene.things):
        inside, radius = image.mask(index), thing.units * size / 128
        x0, y0, x1, y1 = image.boxes[index]
        classes[inside] = 1 + tuple(SHAPES).index(thing.shape)
        across, down = (x - (x0 + x1) / 2) / radius, (y - (y0 + y1) / 2) / radius
        along = np.hypot(across, down)
        squeeze = np.minimum(1, _STEEPEST / np.maximum(along, 1e-9))
        across, down = across * squeeze, down * squeeze
        up = np.sqrt(1 - across**2 - down**2)
        normals[inside] = np.stack([across, down, up], axis=-1)[inside]
        depth[inside] = (1 - thing.units / 64 * (1 + up) / 2)[inside]
    return Relief(depth, normals, classes)

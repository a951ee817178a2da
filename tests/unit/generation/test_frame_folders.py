"""Frames as files: their order, what a folder must hold, and that one is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from tether.core.errors import InputError
from tether.generation import read_frames, write_frames


def test_frames_come_back_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    frames = torch.rand(3, 3, 6, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    folder = write_frames(frames, tmp_path / "clip")
    assert sorted(one.name for one in folder.iterdir()) == ["0000.png", "0001.png", "0002.png"]
    assert float((read_frames(folder, size=(6, 8)) - frames).abs().max()) <= 1 / 255 + 1e-6
    for number in (10, 2, 1):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"frame{number}.png")
    (tmp_path / "notes.txt").write_text("no frame")
    found = read_frames(tmp_path, size=(4, 4))
    assert ((found[:, 0, 0, 0] + 1) * 127.5).round().tolist() == [1, 2, 10]


def test_bad_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        read_frames(tmp_path / "none", size=(4, 4))
    with pytest.raises(InputError, match="1 to 1000 image files, got 0"):
        read_frames(tmp_path, size=(4, 4))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png"):
        read_frames(tmp_path, size=(4, 4))
    with pytest.raises(InputError, match="got a file"):
        read_frames(tmp_path / "a.png", size=(4, 4))
    with pytest.raises(InputError, match="is there"):
        write_frames(torch.zeros(1, 3, 4, 4), tmp_path)
    with pytest.raises(InputError, match="frames: expected"):
        write_frames(torch.zeros(0, 3, 4, 4), tmp_path / "new")
    assert not (tmp_path / "new").exists()

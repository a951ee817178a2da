"""Tether's own image and text towers, CLIP of the two, and the same model at other sizes."""

"""The image tower: pixels to patches to tokens to one embedding."""

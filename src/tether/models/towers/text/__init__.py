"""The text tower: token ids to one embedding, with nothing computed on padding."""

"""What a model can tell you: find images, name them."""

"""What a model can tell you: find pictures, name them."""

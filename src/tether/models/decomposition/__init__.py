"""What an image tower computes on the way to its embedding, laid out so that the embedding is linear in each piece."""

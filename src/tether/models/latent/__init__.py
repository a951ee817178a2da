"""Images as the latents of an auto-encoder: the auto-encoders, and the image tower that reads what they give."""

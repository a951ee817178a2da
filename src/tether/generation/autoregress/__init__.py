"""Images as codewords that a transformer guesses, scale by scale."""

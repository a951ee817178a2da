"""The one transformer block that both towers are made of, and its pieces."""

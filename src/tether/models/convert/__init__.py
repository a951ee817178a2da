"""Weights of other libraries, renamed and reshaped into ours and back."""

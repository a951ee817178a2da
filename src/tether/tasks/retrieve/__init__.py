"""Find images: embed them once, keep them in a store, ask with words or with another image."""

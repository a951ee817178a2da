"""Find pictures: embed them once, keep them in a store, ask with words or with another picture."""

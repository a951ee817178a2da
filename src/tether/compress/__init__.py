"""How a model is made smaller: so far, training under simulated 4-bit arithmetic."""

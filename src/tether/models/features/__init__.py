"""What lies inside an encoder, whoever built it: layers, weights, tokens, attention; start at ``find.anatomy_of``."""

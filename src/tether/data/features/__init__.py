"""Features of a source: which rows, in which parts, made once and kept on disk."""

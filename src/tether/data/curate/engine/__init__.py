"""A pass over a pool: pieces, workers, state that resumes, shards and the manifest."""

"""A model over HTTP: embeddings as OpenAI's API gives them, search, classes, masks, defects, and one page."""

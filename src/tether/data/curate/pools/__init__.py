"""What a curation reads: images with captions in any format, in pieces of bounded size."""

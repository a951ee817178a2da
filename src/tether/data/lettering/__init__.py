"""Letters in images: a line on a plain square, words written on images, and words as a camera sees them on signs."""

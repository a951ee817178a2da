"""Where in the image is it: masks from words."""

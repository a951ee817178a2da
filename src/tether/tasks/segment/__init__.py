"""Where in the picture is it: masks from words."""

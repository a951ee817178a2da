"""What every page is made of: templates, style, charts, thumbnails and numbers as people read them."""

"""Images and clips changed by words, with what was not named left as it was."""

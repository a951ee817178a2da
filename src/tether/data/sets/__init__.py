"""Data sets that come with Tether; each is a source whose keywords are its settings."""

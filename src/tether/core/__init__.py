"""Values and protocols shared by every package; it knows no method."""

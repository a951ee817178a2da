"""Values and protocols shared by every room; it knows no method."""

"""What ``tether draw`` shows besides the drawing."""

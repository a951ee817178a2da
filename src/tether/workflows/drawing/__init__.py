"""What ``tether draw`` and ``tether edit`` share."""

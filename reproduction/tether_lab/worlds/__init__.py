"""Small worlds that several papers' checks share."""

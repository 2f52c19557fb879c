"""Ways of reading attention."""

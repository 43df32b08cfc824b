"""Studies: questions answered by a small grid of additional heads, each with its own page."""

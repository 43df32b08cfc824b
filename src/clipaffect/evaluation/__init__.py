"""From heads to tidy tables of scores, beside the references they must beat."""

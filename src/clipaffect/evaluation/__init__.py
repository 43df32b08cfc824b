"""Score heads in tidy tables, together with the baselines that they are compared with."""

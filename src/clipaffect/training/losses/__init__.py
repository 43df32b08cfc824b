"""Losses of single frames or units, and the risks that weight them: CVaR and alternatives."""

"""Losses of single frames or units, and the risks that weigh them: CVaR and its alternatives."""

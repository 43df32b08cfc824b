"""Train heads on frozen features: CVaR over the losses, SAM over the weights."""

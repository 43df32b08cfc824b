"""Crops of faces become features: batches of the network, pieces of the work store, the stage."""

"""A model to hand on: heads, how faces become scores, and the protocol, in one checked folder."""

"""Write and check files in the format of the ABAW challenges."""

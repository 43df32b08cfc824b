"""Files in the format of the ABAW challenges: written, and checked line by line."""

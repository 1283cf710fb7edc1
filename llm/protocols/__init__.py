"""Protocols: what an experiment of the paper states, and the road from its grid to its rows."""

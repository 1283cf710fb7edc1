"""The two-hop data: names, templates, triplets, and the training mixtures of the paper (A.2.1)."""

"""The two-hop questions as tasks of lm-evaluation-harness, and compositions as models of it."""

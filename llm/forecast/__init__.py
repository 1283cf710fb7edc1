"""Will two adapters compose? A forecast from a handful of prompts, without answers."""

HALF = 0.5
"""The threshold of every verdict. Scaled by w, an adapter's own answer wins from w = 1/2 on (`python -m theory.sweep
experiment=scale`), and a token belongs to a model that accounts for half of its probability. The value was not fitted
to rows."""

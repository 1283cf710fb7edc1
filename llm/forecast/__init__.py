"""Will these two adapters compose? A forecast from a handful of prompts, without their answers."""

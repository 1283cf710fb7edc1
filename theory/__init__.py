"""The one-layer random-features transformer of *When Does LoRA Reuse Work?*, at any width."""

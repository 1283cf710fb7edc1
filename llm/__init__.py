"""The two-hop and bridge protocols on any causal language model."""

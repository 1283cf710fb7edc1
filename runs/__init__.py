"""What `theory` and `llm` share: settings from `key=value`, rows on disk, provenance, launching."""

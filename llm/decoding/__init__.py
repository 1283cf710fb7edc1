"""Bases by any name, and what they answer under many compositions at once."""

"""The bench's own parts, where a wrong one would give a wrong number."""

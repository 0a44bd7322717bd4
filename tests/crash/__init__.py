"""Daemons killed at any moment: what is lost, doubled, stale or partial afterwards? Nothing may be."""

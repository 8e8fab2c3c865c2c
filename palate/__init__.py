"""Palate: from an event log to a served slate of recommendations, and back."""

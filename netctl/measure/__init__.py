"""Measure what a link really does."""

"""Measurements as ratios to a named peer or limit, taken in the same run."""

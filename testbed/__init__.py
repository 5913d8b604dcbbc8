"""Runs scenarios on real links and reports what happened."""

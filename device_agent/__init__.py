"""Runs a quantised model on a board and sends up what is too hard for it."""

"""Registers devices, hands out work, and answers what is too hard for them."""

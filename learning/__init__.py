"""All that trains, and the only package that imports torch."""

"""Text that must follow a grammar: GBNF and JSON schemas, read, bounded and followed here."""

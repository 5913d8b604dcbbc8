"""netctl against what was asked, and against the tools that people use instead."""

"""Shape links and measure that they are what was asked for."""

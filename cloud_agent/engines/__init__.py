"""Where the cloud's answers come from when not from its own process."""

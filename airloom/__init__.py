"""The ground that every package stands on: errors, settings files, units, security, servers."""

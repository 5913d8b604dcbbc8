"""From a scenario to a run folder."""

"""From a run's events to figures, plots and one self-contained page."""

"""Links that vary with time, as recorded or written down."""

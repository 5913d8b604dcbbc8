"""The devices that are connected now, and the stream to each."""

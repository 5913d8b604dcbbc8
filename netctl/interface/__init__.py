"""What is done to a real interface of this machine, on lease."""

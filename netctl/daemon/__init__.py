"""Boards whose interfaces a controller elsewhere shapes: the daemon, its client, their messages."""

"""The messages that devices and the cloud exchange, and the errors that cross with them."""

"""The device's way to the cloud: one stream after the other, and the asks that cross them."""

"""Modules shared by the networks. Shapes: b batch, c channels, x y z (or x y) space, l tokens."""

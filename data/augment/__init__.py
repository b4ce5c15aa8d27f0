"""How training images are changed: drawn first, with keyed randomness, then applied."""

"""Records to mini-batches, each of them a pure function of its number."""

"""A network for other programs: a file for each format, and anchors for a cfg."""

"""Raw values of a network to boxes."""

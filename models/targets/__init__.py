"""Which prediction learns which box."""

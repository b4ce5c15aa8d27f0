"""How long to train and in which steps: the plan, the regime, and when to measure and to save."""

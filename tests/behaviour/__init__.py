"""What the programs compute, as digests: written down before a change that is to change nothing, compared after it."""

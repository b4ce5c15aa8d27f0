"""Modules of a network, a file for each way they treat what they read."""

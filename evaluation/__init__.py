"""How good a network is: measures, their tables, pictures and files."""

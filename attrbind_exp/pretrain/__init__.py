"""How the bundled model and the bundled benchmark are made. Anyone can make them again."""

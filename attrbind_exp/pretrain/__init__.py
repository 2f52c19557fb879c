"""How the bundled model and the bundled benchmark were made, so that anyone can make them again."""

"""Code of the documentation: the reference, the pictures, what mkdocs runs."""

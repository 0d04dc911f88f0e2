"""What a resolved spec names, as objects: backends, clients, their parameters and their data."""

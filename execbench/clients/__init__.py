"""Clients that make code, one file each; found by listing this package."""

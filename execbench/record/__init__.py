"""Recorders: what a replication leaves behind, as columns of integers."""

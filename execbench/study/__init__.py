"""From the files and options that a user writes to cells, work items and their execution."""

"""Steps of a path: what a verb did, line by line, in the vocabulary of the kernel's source, with evidence."""

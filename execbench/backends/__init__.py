"""Ways to get code into the kernel, one file each; found by listing this package."""

"""The kernel's primitives: what a backend's verbs and a client's phases are made of, in the kernel's names."""

"""Results on disk: table schemas, atomic parts, digests and the manifest of a study."""

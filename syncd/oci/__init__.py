"""The words of the field as pure values: digests, names, manifests. No I/O."""

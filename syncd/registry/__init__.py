"""The way in: HTTP to registries, their mirrors and their CDNs."""

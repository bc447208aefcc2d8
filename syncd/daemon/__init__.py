"""Desired state, and the settings that say it."""

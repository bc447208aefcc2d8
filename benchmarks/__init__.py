"""How fast syncd is, measured beside others in one run: ``make bench``."""

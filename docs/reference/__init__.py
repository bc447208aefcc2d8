"""The pages of docs/ that are made of the code: settings, metrics, log events and errors. ``make docs`` writes them."""

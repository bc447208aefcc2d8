"""One blob, from ranges to verified bytes."""

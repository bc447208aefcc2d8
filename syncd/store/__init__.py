"""The disk: the only code that touches the model store."""

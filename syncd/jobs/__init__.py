"""What syncd does: each job plans (pure), then executes."""

"""The coordinator: runs the rounds and sees no image, no header and no identifier."""

"""What a network's answer rests on: how sure it is, which input pixels it comes from, and what upsets it.

For networks that take one slice, ``[n, 1, h, w]``. Everything here looks at a finished model and at patients that it
was not trained on; nothing of it is part of training.
"""

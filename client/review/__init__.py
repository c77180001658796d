"""``fedward node review``: a person looks at what was held back, on the hospital's own machine."""

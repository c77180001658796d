"""Faces: in a series of head images the face is found and put out, and what cannot be found is held back."""

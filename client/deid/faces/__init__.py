"""Faces: in a series of head images the face is found and put out, and what cannot be found is held back."""

from client.deid.faces.finder import Defaced, Faces, room_for

__all__ = ["Defaced", "Faces", "room_for"]

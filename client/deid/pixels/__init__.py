"""Pixels: text burned into images is found and blanked, and what cannot be cleared is held back."""

from client.deid.pixels.clear import Cleared, clear
from client.deid.pixels.decide import Look, is_head, look

__all__ = ["Cleared", "Look", "clear", "is_head", "look"]

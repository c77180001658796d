"""Pixels: text burned into images is found and blanked, and what cannot be cleared is held back."""

from client.deid.pixels.bits import stored_bits_only
from client.deid.pixels.clear import Cleared, blank, clear
from client.deid.pixels.decide import HELD_FOR_A_PERSON, Look, is_head, look

__all__ = ["HELD_FOR_A_PERSON", "Cleared", "Look", "blank", "clear", "is_head", "look", "stored_bits_only"]

"""The record: what was done, under which rule, in an order that cannot be changed unnoticed."""

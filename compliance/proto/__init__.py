"""The audit exchange on the wire; the code beside ``audit.proto`` is made by ``make proto``."""

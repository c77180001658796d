"""Secure aggregation: the coordinator learns a sum of updates and none of them (docs/secure-aggregation.md).

Pure state machines, bytes in and bytes out: no sockets, no Flower, no torch.
"""

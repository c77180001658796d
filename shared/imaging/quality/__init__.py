"""How good an image or a segmentation is: measures with their sources, sums over slices, intervals over patients.

What :mod:`shared.imaging.metrics` has travels in a federation's rounds; what is here is for reports at a hospital.
"""

"""Other people's data made into DICOM: NIfTI, MINC, DICOM with contours or segments, PNG."""

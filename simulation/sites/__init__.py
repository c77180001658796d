"""The virtual hospitals: real DICOM with invented patients, made on the user's machine from a seed."""

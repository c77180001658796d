"""A released model at work: DICOM in, derived DICOM out, inside the hospital. Identifiers stay as they are."""

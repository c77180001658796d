"""Where a hospital keeps its images: folders and archives, DICOMweb servers, DIMSE archives, behind one protocol."""

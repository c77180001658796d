"""What both ends must agree on, bit for bit: errors, charter, wire messages, imaging tasks. No DICOM, no sockets."""

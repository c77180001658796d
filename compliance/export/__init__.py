"""The audit log in the forms that others read: JSON lines, FHIR R4 AuditEvent, DICOM audit messages, syslog over TLS.

Each form is made while the log is verified from its first line, and each entry in it carries its leaf index and leaf
hash (RFC 6962, section 2.1), so that it can be held against a checkpoint of the log.
"""

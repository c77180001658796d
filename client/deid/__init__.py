"""De-identification driven by PS3.15 Table E.1-1: a folder of DICOM in, pseudonymous DICOM and a report out.

>>> from client.deid import Profile, SiteKey, deidentify_folder
>>> Profile.load("basic").needs_expert
False
"""

from client.deid.batch import deidentify_folder
from client.deid.profile import Profile
from client.deid.pseudonyms import SiteKey
from client.deid.report import DeidReport, FileRecord, Status

__all__ = ["DeidReport", "FileRecord", "Profile", "SiteKey", "Status", "deidentify_folder"]

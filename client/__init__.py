"""The hospital: everything that touches a patient's data lives here and only here."""

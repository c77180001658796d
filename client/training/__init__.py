"""Training at the hospital, with or without differential privacy whose unit is the patient."""

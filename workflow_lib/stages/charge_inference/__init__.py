"""Charge states read from predicted moments in supercells with vacancies."""

"""The codes that compute: GPAW here, VASP by the user's command."""

"""The GPAW campaign behind resources/naxfepo4-gpaw."""

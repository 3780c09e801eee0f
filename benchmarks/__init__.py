"""Side-by-side comparisons with the upstream packages; see README.md here."""

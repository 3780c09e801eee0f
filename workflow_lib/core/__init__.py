"""Code that every room uses: errors, files, locks, progress, elements, the style of figures."""

"""What every room uses: errors, files, locks, progress, elements, the look of figures."""

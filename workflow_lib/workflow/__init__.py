"""Code that only Snakemake uses."""

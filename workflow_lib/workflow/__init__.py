"""What exists for Snakemake alone."""

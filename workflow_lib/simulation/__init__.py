"""What is done with a potential: relaxation, its cache, the ASE and torch-sim sides."""

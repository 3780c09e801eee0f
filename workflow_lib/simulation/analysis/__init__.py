"""What trajectories and moments say: displacement, diffusion, coordination, diffraction, charge states."""

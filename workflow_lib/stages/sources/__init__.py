"""Public and local data: fetched once, verified, with licence and citation beside them."""

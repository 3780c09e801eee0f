"""Reference energies: from the store, else from an engine, else pending."""

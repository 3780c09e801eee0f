"""What each figure of a run shows, in a sentence or two, for the report's page.

Apart from the schema, so that a changed caption makes no result out of date. A stage that draws a
figure adds its name to ``results_files.FIGURES`` and its caption here; the page shows it then.
"""

from __future__ import annotations

CAPTIONS: dict[str, str] = {
    "dataset/composition": "Frames of each composition, by how they were made.",
    "dataset/redox": "Magnetic moments and Bader charges of the redox sites, coloured by the charge "
    "state that was assigned to each: two separate peaks mean that the assignment is safe.",
    "dataset/energy": "Energies of the frames above the lowest frame of the same state.",
    "dataset/coverage": "Share of the frames that carry each label.",
    "dataset/charge_states": "For each material, how many frames got charge states, and why the "
    "others did not.",
    "dataset/elements": "Elements of the frames in the periodic table, and how much each label varies.",
    "training/learning": "Errors during the training, on the frames that train and on those that validate.",
    "training/parity": "Every number that the model and DFT both give, one against the other.",
    "charge_order/states": "Formation energies of the charge-ordered states, model against DFT.",
    "charge_order/overview": "How well each model ranks the charge-ordered states: filled marks are "
    "states that it has not seen in training, hollow marks all states.",
    "charge_order/identical": "Several charge orders on the very same atoms: DFT can compute each, a"
    " model without a label gives them one energy.",
    "search/progress": "Lowest formation energy against the number of relaxations, for each search.",
    "search/overview": "Lowest formation energy that each search reached with the same number of "
    "relaxations, by the model's own energies, and how far random search stays above the others.",
    "thermodynamics/hull": "Formation energies of the charge-ordered states and their convex hull, "
    "DFT and models.",
    "thermodynamics/voltage": "Open-circuit voltage along the convex hull, DFT and models.",
    "thermodynamics/found": "All that the searches found, with the DFT energies that exist.",
    "thermodynamics/hull_controls": "The convex hull of the controls.",
    "thermodynamics/voltage_controls": "The voltage of the controls.",
    "embedding/pca": "Principal components of the features from which one model computes the energy "
    "of an atom.",
    "embedding/overview": "Principal components of the atomic features of every model, with the "
    "redox sites coloured by charge state.",
    "phase_diagram/fit": "Formation energies of the relaxed structures, and what fits of the cluster "
    "expansion that have not seen them say.",
    "phase_diagram/diagram": "Temperature against composition, with and without the entropy of the charge "
    "states. Dots: one phase; dashed: two phases in equilibrium.",
    "phase_diagram/entropy": "Entropy against composition beside ideal mixing, and what ions and charges "
    "have of it.",
    "phase_diagram/isotherms": "Composition against voltage in both directions, and heat capacity.",
    "comparison": "Every model and metric of the comparison table.",
    "ablation": "Errors on held-out frames of models that differ in one thing; diamonds: the published "
    "study; the bar: the 95 % interval of the difference.",
    "charge_inference/charges": "Magnetic moments of the redox atoms after random removals of ions, "
    "before and after relaxation, and principal components of the features behind them: two groups are two "
    "charge states.",
    "dynamics/moments": "Diffraction, moments by coordination, energy and the map of all moments during "
    "molecular dynamics.",
    "dynamics/diffusion": "Mean squared displacements of the mobile ions, and their self-diffusion against "
    "temperature with the error that the number of hops allows.",
    "dynamics/hopping": "Which redox atoms are reduced and on which sites the ions are in time; how long "
    "electrons and ions stay, and whether they hop together.",
}

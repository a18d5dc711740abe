"""What is chosen on a model's cross-validation and used in its predictions: thresholds, minimum component sizes.

scores.py           overlap of a case at many thresholds at once
components.py       overlap without components below many sizes at once, and removing them
choose.py           the best values, and what they gain on cases they were not chosen on
label_manager.py    nnU-Net's label manager with other thresholds than one half: how predictions get them
minimum_size.py     minimum component sizes: chosen, kept, applied
model_folder.py     where a trained model keeps what is needed, and what is chosen
"""

UNITS = ("voxels", "mm3")
"""Of minimum sizes; here, where nothing heavy is imported."""

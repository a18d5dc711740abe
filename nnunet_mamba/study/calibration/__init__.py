"""What is chosen on a model's cross-validation and used in its predictions: thresholds, minimum component sizes.

scores.py           overlap of a case at many thresholds at once
components.py       overlap without components below many sizes at once, and removing them
gain.py             the best values, and what they gain on cases they were not chosen on
label_manager.py    nnU-Net's label manager with other thresholds than one half: how predictions get them
validated_model.py  a trained model's validation, which all is chosen on
thresholds.py       thresholds: chosen, kept, applied
minimum_size.py     minimum component sizes: chosen, kept, applied
"""

UNITS = ("voxels", "mm3")
"""Of minimum sizes; here, where nothing heavy is imported."""

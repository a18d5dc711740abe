"""Thresholds for models of regions or of one foreground label, chosen on the cross-validation.

scores.py           overlap of a case at many thresholds at once
choose.py           the best thresholds, and what they gain on cases they were not chosen on
label_manager.py    nnU-Net's label manager with other thresholds than one half: how predictions get them
model_folder.py     where a trained model keeps what is needed, and what is chosen
"""

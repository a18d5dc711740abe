"""How far to trust a prediction: what its members disagree about, and how well that finds the bad ones.

members.py      nnU-Net's predictor, which also keeps the networks and mirrored passes that it averages
measures.py     numbers of one case: Dice between members, entropy, spread of the volume; a map of the entropy
maps.py         the map of a case as an image file
ranking.py      how well a measure ranks cases by their Dice: risk and coverage, rank correlation, intervals
looking.py      a limit beyond which to look at a case, and what it catches on cases it was not chosen on
temperature.py  one temperature for all logits, and the calibration error before and after
validation.py   all of it on the validation cases of a cross-validation, kept case by case
outcome.py      what is stored next to the model
judgement.py    of a new case: its numbers, and whether to look at it
report.py       tables, curves, page
"""

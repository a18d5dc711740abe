"""Several models on the same cases: who is better, by how much, how sure is that, and at what cost.

candidates.py   what is compared: cross-validated models or folders of predictions
cases.py        patients and cohorts of the cases
scores.py       every candidate's scores, kept for the next time
differences.py  paired differences with intervals and p-values
training.py     curves, time, memory and size of trainings, from what nnU-Net leaves behind
tables.py       what is found, as tables
plots.py        and as pictures
viewer.py       volumes of some cases for the page's viewer
report.py       the page and its Markdown twin
"""

TESTS = ("permutation", "wilcoxon")
"""Whose p-values can be corrected; here, where nothing heavy is imported."""

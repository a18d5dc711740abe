"""A study: models trained on the same folds, scored by the same metrics, compared with intervals and p-values.

evaluation   metrics of predictions against truths
crossval     whole cross-validations through nnU-Net's own commands, here or on SLURM
calibration  thresholds and minimum sizes, chosen on a cross-validation
comparison   several models on the same cases: tables, tests, the report
"""

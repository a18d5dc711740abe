"""Measurements that check first and report after: `nnunet-mamba bench ops|network`.

A figure is printed only for a result that agrees with the reference, and everything that a table compares is measured
in one run on one machine.
"""

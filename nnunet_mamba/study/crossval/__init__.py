"""Whole cross-validations of several models through nnU-Net's own commands, on this machine or on a SLURM cluster.

models.py      which models, by nnU-Net's names
definition.py  which models, folds and folders
evidence.py    what shows that a step is done
steps.py       nnU-Net's commands that are needed, and what each waits for
commands.py    running one command
guard.py       ending what a killed process has left running
local.py       running all of them here, one per GPU
slurm.py       submitting them as jobs
"""

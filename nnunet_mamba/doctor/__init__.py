"""What is installed, what works, and what to type where it does not; and error messages explained.

messages.py      messages of this field: how to recognise them, cause, remedy. Imports nothing heavy
finding.py       one thing looked at, and what to do about it
installation.py  versions
names.py         whether stock nnU-Net finds us
backends.py      which backend runs each operator on each device
machine.py       environment variables, folders, shared memory, workers
"""

"""Models for runtimes that know nothing of nnU-Net, torch or this package: ONNX files, and a file that says how to use
them.

source.py        the files of a trained model, from its folder or from a zip that nnU-Net wrote
model.py         what the files say: plans, labels, members, and the network with a member's weights
write_onnx.py    a network as an ONNX file of standard operators
onnx_agrees.py   whether onnxruntime computes what torch does
description.py   model.json: all that prediction needs to know
folder.py        all of it, in a folder that is complete or not there
"""

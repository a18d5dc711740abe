"""How much memory a training step takes, found without running it and without the device it will run on.

allocations     every tensor that a piece of code makes and frees, on tensors that have shapes but no numbers
cuda_autocast   the precision that CUDA would choose for each operation
training_step   one step of nnU-Net's training, traced; its peak as a function of batch times voxels
"""

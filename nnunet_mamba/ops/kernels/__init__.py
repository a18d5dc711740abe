"""What the operators' backends share: kernels, the sizes of their blocks, and their launches."""

"""What the trainers share: optimiser, state, update step, rematerialisation, checkpoints.

Pure functions, except for `cosyjax.training.checkpoints`. The programs in `train/` join them.
"""

"""Settings of training and evaluation runs, one short Python file each."""

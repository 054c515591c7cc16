"""Speaker encoder: CAM++, recordings to a speaker vector."""

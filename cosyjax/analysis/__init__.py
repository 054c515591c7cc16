"""Instruments that no model or step imports: FLOPs, compiled programs, collectives, chips, profiles."""

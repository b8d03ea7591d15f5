"""Commands of this project as jobs of a SLURM cluster: submitted by --on=slurm, or by hand with the scripts here."""

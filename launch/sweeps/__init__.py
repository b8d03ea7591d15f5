"""The parts of launch.sweep: the arms of a config file, and what became of their runs."""

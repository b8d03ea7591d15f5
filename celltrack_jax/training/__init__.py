"""The training loop and what it stands on; knows the Task protocol, never a task."""

"""A trained model applied to a movie of any size."""

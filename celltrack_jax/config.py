"""The type of an experiment's config, or of a part of it, in signatures."""

from typing import Any, TypeAlias

Config: TypeAlias = Any
"""An `ml_collections.ConfigDict`. Its declared attribute types are unions with None that no checker can follow."""

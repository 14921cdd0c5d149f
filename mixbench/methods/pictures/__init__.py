"""Pictures of what methods do, each written to be the ``picture`` of a method."""

"""Pictures of what methods do, drawn with Pillow."""

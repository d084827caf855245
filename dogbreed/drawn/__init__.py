"""Dogs that the library draws itself, so that the first training needs no download."""

from dogbreed.drawn.source import SPLITS, DrawnDogs

__all__ = ["SPLITS", "DrawnDogs"]

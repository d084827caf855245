"""Draw a data set of dogs, so that the first training needs no download."""

from dogbreed.drawn.source import SPLITS, DrawnDogs

__all__ = ["SPLITS", "DrawnDogs"]

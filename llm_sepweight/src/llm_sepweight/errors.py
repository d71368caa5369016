"""The one exception of this package."""


class WeightsError(ValueError):
    """A checkpoint is missing, damaged, hostile or contradicts itself: names the file, the tensor and the rule."""

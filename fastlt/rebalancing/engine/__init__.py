"""The training of classifiers, many at once, on cached features or live images, and the choice of settings."""

"""What trains classifiers: many at once on cached features, or on live images, and how settings are chosen."""

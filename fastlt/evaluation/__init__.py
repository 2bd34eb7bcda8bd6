"""From features and a linear head to accuracies with intervals; a run's classifiers, confidences and targets."""

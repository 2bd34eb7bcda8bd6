"""Stage 1: train a backbone and its linear head jointly; a resumed run ends with the same bits."""

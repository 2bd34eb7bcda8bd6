"""The features of every image: computed once with a run's backbone, stored, and read in rows."""

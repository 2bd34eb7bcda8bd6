"""The report of a run: one self-contained HTML page and its figures; `plots` draws what the other modules compute."""

"""The report: one HTML page, no network."""

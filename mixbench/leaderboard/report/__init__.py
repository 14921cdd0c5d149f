"""The report: results of runs as one HTML page that needs nothing beside it."""

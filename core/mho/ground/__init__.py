"""What everything stands on: errors, tables, files."""

"""Hardware files: YAML text, schema, units, inheritance, and the plugins that their kinds come from."""

"""What contracts share, one module for each kind of question that is asked about a part."""

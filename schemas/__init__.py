"""What each table is. Every table is readable with pandas alone; see one file per table."""

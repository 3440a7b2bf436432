"""The schemas of the tables, one file per table. Every table is readable with pandas alone."""

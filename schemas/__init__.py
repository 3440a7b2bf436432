"""The schemas of the tables, one file per table. pandas alone reads each; docs/tables.md names other readers."""

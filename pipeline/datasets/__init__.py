"""Data sets, one per file: each reads its published layout and yields pairs. See registry.py for adding one."""

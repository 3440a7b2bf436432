"""The rows that are read of a Parquet file, against those that its footer promises."""


def check_row_count(n_rows: int, expected: int, where: str) -> None:
    """Raises ValueError for another number of rows than the footer says.

    Arrow reads damaged pages that have fewer values without an error, where all columns that are read have as many.
    """
    if n_rows != expected:
        raise ValueError(f"{where} is damaged: there are {n_rows} rows to be read, and {expected} by its footer")

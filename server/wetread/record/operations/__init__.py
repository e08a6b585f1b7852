"""Operations that read many resources at once, and the table of all operations."""

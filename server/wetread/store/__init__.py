"""Ground: the database engine, its transactions and migrations, and blob files. Knows no medicine."""

"""The database, its tables and migrations, and a file for each kind of record that is kept."""

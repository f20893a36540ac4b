"""`python -m backend VERB`."""

from backend.cli import main

main()

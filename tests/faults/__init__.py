"""The fault matrix: what can go wrong, and for each a test that is named by its row.

``rows.txt`` holds the rows; ``python -m tests.faults.coverage`` says which have a test.
"""

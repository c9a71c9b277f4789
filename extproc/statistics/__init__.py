"""Every series that this product counts, in one list, and the table that its README has of it.

`series` has the list, `labels` what values labels can have, `table` writes both down.
"""

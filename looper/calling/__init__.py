"""Model calls, one and several at once: what is asked, by which client, within which budget, and what came of it.

May import `wire` and below. A call begins as a draft (`drafts`), is granted by the ledger (`budget`), sent by `client`,
several by `fanout`, and leaves a record (`trace`). A new kind of failure is a line in `calls.Failure`.
"""

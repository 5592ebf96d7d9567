"""`report.html`, the leaderboard, and the figures of a run.

`content` says what goes into the report, `document` renders it, `stamp` fills in a run's name. `figures` also
makes the pictures for Prefect's page. Nothing here reads artifacts: `tasks.reported` and the report
stage do. Nothing imports torch.
"""

"""Teachers at work: what the cache lacks is computed once, by whoever has the rows, and committed there.

preflight.py   is this teacher any good on these rows?
predictor.py   Predictor: inputs -> signals            labeler.py   Labeler: one shard, rows in, commit out
pool.py        the same by a pool of Ray actors
"""

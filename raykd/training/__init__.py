"""Students at work: one loop for every objective, alone or as one of several workers.

job.py         TrainingJob: what a worker is told       process.py    Process: which of the workers it is
feed.py        Feed: batches of rows and signals        learner.py    Learner: student and criterion in one module
loop.py        train: epochs, checkpoints, metrics      checkpoint.py, metrics.py   what it leaves on the storage
evaluate.py    answers on held-out rows                 worker.py     the loop as a Ray Train worker group
"""

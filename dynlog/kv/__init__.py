"""Key-value buckets on the log: a bucket is one partition, a revision is an offset, and the state is a fold.

`records` says what is written, `fold` what follows from it; everything else brings the two together.
"""

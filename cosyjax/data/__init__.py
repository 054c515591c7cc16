"""Corpora: manifests, the TFDS builder and reader of ArrayRecord shards, features beside them, and training batches.

manifest   JSON lines, or a folder of recordings and transcripts -> checked utterances
adapter    existing TFDS speech data sets -> the same utterances
builder    utterances -> a corpus directory of ArrayRecord shards, on one machine or with Apache Beam
corpus     random access to a corpus directory
features   arrays computed once for every utterance, in shards like the corpus's own
batches    the rows that a trainer sees, the same for any number of processes
"""

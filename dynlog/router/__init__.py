"""The KV router: which worker holds how much of a prompt, as a fold over the log of the fleet's cache events.

`index` is the state, `projection` folds records into it, `dump` writes it in Dynamo's form.
"""

"""How bytes move and what others say: wires, and the foreign formats of vLLM's and Dynamo's KV events.

An adapter turns foreign input into `dynlog.kvevents` or refuses it loudly; it never guesses."""

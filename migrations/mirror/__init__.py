"""A live mirror between NATS and a log, while old and new components run side by side.

Inwards a stream or core subjects become a topic's records, outwards a topic's records are published to given subjects;
what came from a place never goes back to it, and a cut-over ends the way in at a recorded position.
"""

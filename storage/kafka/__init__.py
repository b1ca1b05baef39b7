"""The Kafka engine, module by module: the wire (options, protocol, wires, cluster), records as messages (messages,
lanes, fetches, watch), and what Kafka does not know (fold: the state machine, meta: its log, sizes, topics).
"""

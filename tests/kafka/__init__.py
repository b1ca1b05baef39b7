"""The Kafka engine on real brokers."""

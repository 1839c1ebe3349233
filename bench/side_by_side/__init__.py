"""The parts of bench/ingest.py: servers, what they are measured with, and how the figures are shown."""

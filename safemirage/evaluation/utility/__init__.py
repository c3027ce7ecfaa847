"""What a model can still do, beside what it refuses."""

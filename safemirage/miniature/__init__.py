"""A safety mirage that trains on a laptop in a minute: a world of drawn pictures, its questions, its model."""
